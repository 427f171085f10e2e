//! PROXY headers: cut anywhere they wait or are refused for good, what is behind them is never theirs,
//! and what is written reads back as what was meant.
//!
//! Input: what a connection begins with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsteady::wire::proxy::{Ends, Header, write_binary, write_line};

fuzz_target!(|input: &[u8]| {
    let whole = Header::parse(input);
    check_cuts(input, whole);
    let Ok(Some(header)) = whole else {
        return;
    };
    assert!(header.len <= input.len() && header.len <= LEN_MAX);
    check_behind(&input[..header.len], header);
    for version in [write_line, write_binary] {
        check_written(header.ends, version);
    }
});

/// Each beginning of what is a header waits; what is refused stays so, whatever follows.
fn check_cuts(input: &[u8], whole: Verdict) {
    let mut refused = None;
    for cut in 0..input.len().min(LEN_MAX + 1) {
        let seen = Header::parse(&input[..cut]);
        if let Some(before) = refused {
            assert_eq!(seen, Err(before), "refused, and then not, at {cut}");
            continue;
        }
        match seen {
            Ok(None) => {}
            Ok(Some(header)) => {
                assert_eq!(header.len, cut, "found late");
                assert_eq!(whole, seen, "another one with more behind it");
                return;
            }
            Err(why) => refused = Some(why),
        }
    }
    if let Some(before) = refused {
        assert_eq!(whole, Err(before));
    }
}

/// What stands behind a header changes nothing of it.
fn check_behind(header: &[u8], read: Header) {
    for behind in [&b"\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xff]] {
        let both = [header, behind].concat();
        assert_eq!(Header::parse(&both), Ok(Some(read)));
    }
}

fn check_written(ends: Option<Ends>, write: fn(Option<Ends>, &mut Vec<u8>)) {
    let mut bytes = Vec::new();
    write(ends, &mut bytes);
    let read = Header::parse(&bytes).expect("ours").expect("whole");
    assert_eq!(read.len, bytes.len());
    let bare = |ends: Ends| {
        [ends.from, ends.to].map(|end| (end.ip().to_canonical(), end.port()))
    };
    assert_eq!(read.ends.map(bare), ends.map(bare));
    // Read once, it is written so again.
    let mut again = Vec::new();
    write(read.ends, &mut again);
    assert_eq!(again, bytes);
}

type Verdict = Result<Option<Header>, wsteady::wire::proxy::NoHeader>;

/// Of version 2, with the most behind its addresses.
const LEN_MAX: usize = 16 + 4_096;
