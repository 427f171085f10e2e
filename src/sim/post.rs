//! A shard's mailbox: what control sends may be late, and what another shard sends overtakes it.

use crate::shard::Mail;

#[derive(Default)]
pub struct Letterbox {
    mail: Vec<Mail>,
    /// Control has told other shards, but not this one yet.
    late: Vec<Mail>,
    late_until: u64,
}

impl Letterbox {
    /// Another shard sends.
    pub fn put(&mut self, mail: Mail) {
        self.mail.push(mail);
    }

    /// Control sends: in order, and not before what it has sent earlier.
    pub fn tell(&mut self, mail: Mail, now: u64) {
        self.step(now);
        if self.late_until > now {
            self.late.push(mail);
        } else {
            self.mail.push(mail);
        }
    }

    /// What control sends is not here before then.
    pub fn delay(&mut self, until: u64) {
        self.late_until = self.late_until.max(until);
    }

    pub fn step(&mut self, now: u64) {
        if self.late_until <= now {
            self.mail.append(&mut self.late);
        }
    }

    /// What other shards have sent, and control too.
    pub fn iter(&self) -> impl Iterator<Item = &Mail> {
        self.mail.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.mail.is_empty()
    }

    pub fn take(&mut self, into: &mut Vec<Mail>) {
        into.append(&mut self.mail);
    }
}
