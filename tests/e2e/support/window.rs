//! One Chromium window that a test moves (`tests/peers/window.py`).

use super::root;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Window {
    child: Child,
    /// Until the end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Window {
    /// A view of that many CSS pixels.
    pub fn open(url: &str, (width, height): (u32, u32)) -> Window {
        let mut child = Command::new(root().join(".venv/bin/python"))
            .arg(root().join("tests/peers/window.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/setup-tests installs Python and Chromium");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut window = Window {
            child,
            commands,
            answers,
        };
        window.size(width, height);
        window.act(&format!("open {url}"));
        window
    }

    /// One command; see `window.py`.
    pub fn act(&mut self, line: &str) -> Value {
        assert!(!line.contains('\n'), "one command, one line: {line}");
        let commands = self.commands.as_mut().expect("not the end");
        writeln!(commands, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_str(&answer)
            .unwrap_or_else(|_| panic!("the window is gone at {line}: {answer}"));
        assert!(answer.get("error").is_none(), "{line}: {answer}");
        answer["value"].take()
    }

    pub fn size(&mut self, width: u32, height: u32) {
        self.act(&format!("size {width} {height}"));
    }

    /// The value of a JavaScript expression.
    pub fn run(&mut self, script: &str) -> Value {
        self.act(&format!("run {}", script.replace('\n', " ")))
    }

    /// The visible text of what a selector finds first.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.run(&format!("document.querySelector({selector:?}).innerText"));
        text.as_str().expect("a text").to_string()
    }

    /// Looks until an expression is true, and says how long that took.
    pub fn until(&mut self, limit: Duration, script: &str) -> Duration {
        let begun = Instant::now();
        while self.run(script) != true {
            if begun.elapsed() > limit {
                let page = self.run("document.body.innerText");
                panic!("waited {limit:?} in vain for {script}; the page says: {page}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    }

    /// Tab, until what has the focus is called that.
    pub fn tab_to(&mut self, name: &str) {
        const NAME: &str = "(document.activeElement.getAttribute('aria-label') \
            || document.activeElement.innerText || '').trim()";
        for _ in 0..60 {
            if self.run(NAME) == name {
                return;
            }
            self.act("press Tab");
        }
        panic!("no Tab leads to {name:?}");
    }

    /// Goes to the end of what the page may do: no error, and no request but to this address.
    pub fn must_be_clean(&mut self, base: &str) {
        let seen = self.act("seen");
        assert_eq!(seen["errors"], serde_json::json!([]), "{seen}");
        let requests = seen["requests"].as_array().expect("a list");
        assert!(!requests.is_empty());
        for url in requests {
            let url = url.as_str().expect("a URL");
            let own = url.starts_with(base) || url.starts_with("data:");
            assert!(own, "a request to {url}");
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // The driver ends with its commands, and ends its browser.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
