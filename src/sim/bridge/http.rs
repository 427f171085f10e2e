//! Messages whose length is told, as the bridge's peers send them.

use crate::sim::head::Head;

/// Cuts a stream into messages.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    head: Option<(Head, usize)>,
}

impl Messages {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether it stands between two messages.
    pub fn is_between(&self) -> bool {
        self.bytes.is_empty() && self.head.is_none()
    }

    /// The head of the message that is being read, once it is there. True: it was not asked before.
    pub fn head(&mut self) -> Result<Option<(&Head, bool)>, String> {
        let mut new = false;
        if self.head.is_none() {
            let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Ok(None);
            };
            let head = Head::read(&self.bytes[..end])?;
            let length = length(&head)?;
            self.bytes.drain(..end + 4);
            self.head = Some((head, length));
            new = true;
        }
        Ok(self.head.as_ref().map(|(head, _)| (head, new)))
    }

    /// The next whole message.
    pub fn next(&mut self) -> Result<Option<(Head, Vec<u8>)>, String> {
        self.head()?;
        match &self.head {
            Some((_, length)) if self.bytes.len() >= *length => {
                let body = self.bytes.drain(..*length).collect();
                let head = self.head.take();
                Ok(head.map(|(head, _)| (head, body)))
            }
            _ => Ok(None),
        }
    }
}

/// Both ends of the simulator name the length of a body; nothing else is understood.
fn length(head: &Head) -> Result<usize, String> {
    if head.value("transfer-encoding").is_some() {
        return Err("a transfer coding".into());
    }
    let digits = head.value("content-length").unwrap_or("0");
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(length) if plain && (digits == "0" || !digits.starts_with('0')) => Ok(length),
        _ => Err(format!("a length of {digits}")),
    }
}
