//! The number under which a socket is watched: what it is, and the key of its slot.

use crate::kit::{Key, Slots};

/// Kind, generation and index in one 64-bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client's socket.
    Client(Key),
    /// A server's socket.
    Upstream(Key),
    /// A listener.
    Listener(u32),
    /// The mailbox.
    Mail,
    /// A connection that is not the shard's yet.
    Guest(Key),
}

impl Token {
    /// Of a client.
    pub fn client(key: Key) -> Token {
        Token::pack(1, key)
    }

    /// Of an upstream.
    pub fn upstream(key: Key) -> Token {
        Token::pack(2, key)
    }

    /// Of a listener.
    pub fn listener(index: u32) -> Token {
        Token::pack(
            3,
            Key {
                index,
                generation: 0,
            },
        )
    }

    /// Of the mailbox.
    pub const MAIL: Token = Token(4 << 56);

    /// Of a connection that whatever is below the shard keeps to itself.
    pub fn guest(key: Key) -> Token {
        Token::pack(5, key)
    }

    /// Of nothing.
    pub const NOBODY: Token = Token(0);

    /// What it names; `None` for a number that nobody has given out.
    pub fn kind(self) -> Option<Kind> {
        let generation = (self.0 >> 32) as u32 & GENERATION_MASK;
        let key = Key {
            index: self.0 as u32,
            generation,
        };
        match self.0 >> 56 {
            1 => Some(Kind::Client(key)),
            2 => Some(Kind::Upstream(key)),
            3 => Some(Kind::Listener(key.index)),
            4 => Some(Kind::Mail),
            5 => Some(Kind::Guest(key)),
            _ => None,
        }
    }

    fn pack(kind: u64, key: Key) -> Token {
        debug_assert!(key.generation <= GENERATION_MASK);
        Token(kind << 56 | u64::from(key.generation) << 32 | u64::from(key.index))
    }
}

const GENERATION_MASK: u32 = Slots::<()>::GENERATION_MASK;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_what_it_was_made_of() {
        let key = Key {
            index: u32::MAX - 1,
            generation: GENERATION_MASK,
        };
        assert_eq!(Token::client(key).kind(), Some(Kind::Client(key)));
        assert_eq!(Token::upstream(key).kind(), Some(Kind::Upstream(key)));
        assert_eq!(Token::listener(3).kind(), Some(Kind::Listener(3)));
        assert_eq!(Token::MAIL.kind(), Some(Kind::Mail));
        assert_eq!(Token(0).kind(), None);
    }
}
