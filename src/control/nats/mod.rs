//! NATS, on threads of control: what does not belong to one session.

pub mod link;
