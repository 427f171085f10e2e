//! pprof's file format: `profile.proto` of github.com/google/pprof, gzipped.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::symbols::{Line, Symbols};
use super::{Kind, Profile};

/// Errors can't occur: what is written to is memory.
pub(super) fn encode(profile: &Profile) -> Vec<u8> {
    let message = Writer::default().write(profile).encode_to_vec();
    let mut zip = GzEncoder::new(Vec::new(), Compression::default());
    let _ = zip.write_all(&message);
    zip.finish().unwrap_or_default()
}

/// Gives numbers to what the format names by number; 0 is nobody's.
#[derive(Default)]
struct Writer {
    symbols: Symbols,
    strings: Numbered<String>,
    functions: Numbered<(i64, i64)>,
    locations: Numbered<usize>,
    found: Vec<proto::Location>,
}

impl Writer {
    fn write(mut self, profile: &Profile) -> proto::Profile {
        self.text("");
        let samples = profile
            .stacks
            .iter()
            .map(|(stack, numbers)| self.sample(profile, stack, numbers))
            .collect();
        let kinds: Vec<_> = profile.kinds.iter().map(|kind| self.kind(*kind)).collect();
        let (period_type, period) = profile.period;
        proto::Profile {
            default_sample_type: kinds.last().map_or(0, |kind| kind.name),
            period_type: Some(self.kind(period_type)),
            sample_type: kinds,
            sample: samples,
            drop_frames: self.text(ALLOCATOR),
            time_nanos: ns(profile.began.duration_since(UNIX_EPOCH).unwrap_or_default()),
            duration_nanos: ns(profile.length),
            period: period as i64,
            mapping: vec![self.program()],
            location: self.found,
            function: functions(&self.functions),
            string_table: self.strings.in_order(),
        }
    }

    fn sample(&mut self, profile: &Profile, stack: &[usize], numbers: &[u64]) -> proto::Sample {
        proto::Sample {
            location_id: profile.places(stack).map(|at| self.location(at)).collect(),
            value: numbers.iter().map(|number| *number as i64).collect(),
        }
    }

    fn location(&mut self, place: usize) -> u64 {
        let (id, new) = self.locations.of(place);
        if new {
            let lines = self.symbols.at(place).to_vec();
            let line = lines.into_iter().map(|line| self.line(line)).collect();
            self.found.push(proto::Location {
                id: id + 1,
                mapping_id: 1,
                address: place as u64,
                line,
            });
        }
        id + 1
    }

    fn line(&mut self, line: Line) -> proto::Line {
        let (name, file) = (self.text(&line.function), self.text(&line.file));
        proto::Line {
            function_id: self.functions.of((name, file)).0 + 1,
            line: line.number.into(),
        }
    }

    /// The whole address space as one: names are there already, nobody needs to look for them.
    fn program(&mut self) -> proto::Mapping {
        proto::Mapping {
            id: 1,
            memory_limit: u64::MAX,
            filename: self.text("wsteady"),
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        }
    }

    fn kind(&mut self, kind: Kind) -> proto::ValueType {
        proto::ValueType {
            name: self.text(kind.name),
            unit: self.text(kind.unit),
        }
    }

    fn text(&mut self, text: &str) -> i64 {
        self.strings.of(text.to_string()).0 as i64
    }
}

/// Numbers in the order of first appearance, from 0.
struct Numbered<T>(BTreeMap<T, u64>);

impl<T> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Numbered<T> {
    /// The number, and whether it is a new one.
    fn of(&mut self, item: T) -> (u64, bool) {
        let next = self.0.len() as u64;
        let number = *self.0.entry(item).or_insert(next);
        (number, number == next)
    }

    fn in_order(&self) -> Vec<T> {
        let mut items: Vec<_> = self.0.iter().collect();
        items.sort_by_key(|(_, number)| **number);
        items.into_iter().map(|(item, _)| item.clone()).collect()
    }
}

fn functions(known: &Numbered<(i64, i64)>) -> Vec<proto::Function> {
    let known = known.in_order().into_iter().zip(1..);
    known
        .map(|((name, filename), id)| proto::Function {
            id,
            name,
            system_name: name,
            filename,
        })
        .collect()
}

fn ns(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// What lies below is how a block is taken, not who takes it. Readers match whole names.
const ALLOCATOR: &str = r".*(net::sys::trace::(Watched|stack)|profile::heap::|__rust_alloc|__rust_realloc|alloc::alloc::|alloc::raw_vec::).*";

/// The messages, with the fields that are written here.
mod proto {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        /// Frames of that name are dropped together with all that they call.
        #[prost(int64, tag = "7")]
        pub drop_frames: i64,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub name: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "3")]
        pub memory_limit: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
        #[prost(bool, tag = "10")]
        pub has_inline_frames: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub address: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn decoded(profile: &Profile) -> proto::Profile {
        let bytes = encode(profile);
        let mut message = Vec::new();
        let mut unzip = flate2::read::GzDecoder::new(&bytes[..]);
        unzip.read_to_end(&mut message).expect("gzip");
        proto::Profile::decode(&message[..]).expect("a profile")
    }

    #[test]
    fn what_is_written_can_be_followed_back_to_names() {
        const BYTES: Kind = Kind {
            name: "space",
            unit: "bytes",
        };
        const KINDS: [Kind; 2] = [
            Kind {
                name: "objects",
                unit: "count",
            },
            BYTES,
        ];
        let known = encode as *const () as usize;
        let profile = Profile {
            kinds: &KINDS,
            period: (BYTES, 7),
            stacks: BTreeMap::from([
                (Box::from([known + 2, 16]), vec![1, 2]),
                (Box::from([]), vec![3, 4]),
            ]),
            is_called: true,
            began: UNIX_EPOCH + Duration::from_secs(5),
            length: Duration::from_millis(3),
        };
        let found = decoded(&profile);
        let text = |at: i64| found.string_table[at as usize].as_str();
        assert_eq!(text(0), "", "the format wants it so");
        let kinds = found.sample_type.iter();
        let kinds: Vec<_> = kinds
            .map(|kind| (text(kind.name), text(kind.unit)))
            .collect();
        assert_eq!(kinds, [("objects", "count"), ("space", "bytes")]);
        assert_eq!(text(found.default_sample_type), "space");
        assert_eq!((found.period, found.time_nanos), (7, 5_000_000_000));
        assert_eq!(found.duration_nanos, 3_000_000);
        let [lost, sample] = &found.sample[..] else {
            panic!("{:?}", found.sample);
        };
        assert_eq!(
            (&lost.location_id[..], &lost.value[..]),
            (&[][..], &[3, 4][..])
        );
        assert_eq!(sample.value, [1, 2]);
        let places = sample.location_id.iter();
        let places: Vec<_> = places.map(|id| &found.location[*id as usize - 1]).collect();
        assert_eq!(places[0].address as usize, known + 1, "inside the call");
        assert!(places[1].line.is_empty(), "nothing stands there");
        let line = places[0].line.last().expect("a name");
        let function = found.function[line.function_id as usize - 1];
        assert_eq!(function.id, line.function_id);
        assert!(text(function.name).ends_with("profile::pprof::encode"));
        assert!(text(function.filename).ends_with("pprof.rs") && line.line > 0);
    }
}
