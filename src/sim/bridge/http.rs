//! The peers' own HTTP: strict, small, and written apart from the proxy's, so that they can't err
//! together.

/// The head of a request or of an answer.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub start: [String; 3],
    lines: Vec<(String, String)>,
}

impl Head {
    /// The value of the only header of this name.
    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.lines.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn read(text: &[u8]) -> Result<Head, String> {
        let text = std::str::from_utf8(text).map_err(|_| "a head that is not UTF-8")?;
        if text
            .bytes()
            .any(|byte| byte < 0x20 && !b"\r\n".contains(&byte))
        {
            return Err(format!("a control byte in {text:?}"));
        }
        let mut lines = text.split("\r\n");
        let start: Vec<&str> = lines.next().unwrap_or_default().splitn(3, ' ').collect();
        let [one, two, three] = start[..] else {
            return Err(format!("a start line of {start:?}"));
        };
        let mut head = Head {
            start: [one, two, three].map(str::to_string),
            lines: Vec::new(),
        };
        for line in lines {
            let Some((name, value)) = line.split_once(": ") else {
                return Err(format!("a header line {line:?}"));
            };
            let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if name.is_empty() || !name.bytes().all(token) || value != value.trim() {
                return Err(format!("a header line {line:?}"));
            }
            if line.contains(['\r', '\n']) {
                return Err(format!("half a line end in {line:?}"));
            }
            let name = name.to_ascii_lowercase();
            if head.value(&name).is_some() {
                return Err(format!("two headers {name}"));
            }
            head.lines.push((name, value.to_string()));
        }
        Ok(head)
    }

    /// Both ends of the simulator name the length of a body; nothing else is understood.
    fn length(&self) -> Result<usize, String> {
        if self.value("transfer-encoding").is_some() {
            return Err("a transfer coding".into());
        }
        let digits = self.value("content-length").unwrap_or("0");
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(length) if plain && (digits == "0" || !digits.starts_with('0')) => Ok(length),
            _ => Err(format!("a length of {digits}")),
        }
    }
}

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
            let length = head.length()?;
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
