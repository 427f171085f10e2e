//! The peers' own reading of HTTP heads: strict, small, and written apart from the proxy's, so that
//! they can't err together.

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

    pub fn read(text: &[u8]) -> Result<Head, String> {
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
}
