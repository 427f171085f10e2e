use std::cell::Cell;
use std::rc::Rc;

use super::*;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// A row of valves over a clock that stands unless a valve moves it.
fn row(valves: Vec<Box<dyn Valve>>) -> (Valves, Key) {
    let mut store = Valves::none();
    store.clock = || NOW.get();
    let seat = |valve: Box<dyn Valve>| Seat {
        wants: valve.wants(),
        valve,
    };
    let key = store.rows.insert(Row {
        seats: valves.into_iter().map(seat).collect(),
        debt: 0,
        charged_at: NOW.get(),
    });
    (store, key)
}

fn text(direction: Direction, payload: &[u8]) -> Message<'_> {
    Message {
        direction,
        text: true,
        compressed: false,
        payload,
    }
}

/// Puts its letter behind each message.
fn letter(letter: u8) -> Box<dyn Valve> {
    Box::new(move |message: &Message<'_>| Verdict::Change([message.payload, &[letter]].concat()))
}

fn said(verdict: Verdict) -> Box<dyn Valve> {
    Box::new(move |_: &Message<'_>| verdict.clone())
}

#[test]
fn upward_messages_meet_the_first_valve_first_and_downward_ones_the_last() {
    for (direction, want) in [(Direction::Up, "ab"), (Direction::Down, "ba")] {
        let (mut store, key) = row(vec![letter(b'a'), letter(b'b')]);
        let outcome = store.show(key, text(direction, b""), 100);
        assert_eq!(outcome, Outcome::Said(Verdict::Change(want.into())));
    }
}

#[test]
fn what_one_stops_the_next_never_sees() {
    let answer = Verdict::Answer {
        text: false,
        payload: vec![0xff],
    };
    for verdict in [Verdict::Drop, answer, Verdict::Close(4000, "no".into())] {
        let last = Box::new(|_: &Message<'_>| panic!("it was stopped"));
        let (mut store, key) = row(vec![letter(b'a'), said(verdict.clone()), last]);
        let outcome = store.show(key, text(Direction::Up, b""), 100);
        assert_eq!(outcome, Outcome::Said(verdict));
    }
}

#[test]
fn what_can_not_be_sent_is_the_valves_failure() {
    let rows = [
        (Verdict::Change(vec![0xff]), "UTF-8"),
        (Verdict::Change(vec![b'x'; 101]), "limits.message"),
        (
            Verdict::Answer {
                text: true,
                payload: vec![0xff],
            },
            "UTF-8",
        ),
        (Verdict::Close(1006, String::new()), "code"),
    ];
    for (verdict, why) in rows {
        let (mut store, key) = row(vec![said(verdict)]);
        match store.show(key, text(Direction::Up, b"x"), 100) {
            Outcome::Failed(failure) => assert!(failure.why.contains(why), "{failure:?}"),
            other => panic!("{other:?} for {why}"),
        }
    }
}

#[test]
fn a_panic_and_a_long_second_are_failures_and_short_work_is_none() {
    let panics = Box::new(|_: &Message<'_>| -> Verdict { std::panic::resume_unwind(Box::new(1)) });
    let (mut store, key) = row(vec![panics]);
    let failed = store.show(key, text(Direction::Up, b""), 100);
    assert!(matches!(failed, Outcome::Failed(failure) if failure.why == PANICKED));

    let takes = |micros: u64| {
        Box::new(move |_: &Message<'_>| {
            NOW.set(NOW.get() + micros);
            Verdict::Pass
        })
    };
    let is_slow = |outcome| matches!(outcome, Outcome::Failed(failure) if failure.why == SLOW);
    let (mut store, key) = row(vec![takes(TIME_MAX + 1)]);
    assert!(is_slow(store.show(key, text(Direction::Up, b""), 100)));
    // 10 ms each, ten times a second, may go on for ever; thirty times a second for six seconds.
    for (every, want) in [(100_000, 5_000), (33_000, 148)] {
        let (mut store, key) = row(vec![takes(10_000)]);
        let fine = (0..5_000).take_while(|_| {
            NOW.set(NOW.get() + every - 10_000);
            !is_slow(store.show(key, text(Direction::Up, b""), 100))
        });
        assert_eq!(fine.count(), want, "every {every} µs");
    }
}

#[test]
fn compressed_messages_are_inflated_for_those_who_ask() {
    struct Asks(Wants, Rc<Cell<usize>>);
    impl Valve for Asks {
        fn wants(&self) -> Wants {
            self.0
        }
        fn on(&mut self, message: &Message<'_>) -> Verdict {
            assert_eq!(message.compressed, !self.0.contains(Wants::INFLATED));
            self.1.set(self.1.get() + message.payload.len());
            Verdict::Pass
        }
    }
    // RFC 7692 7.2.3.1.
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let seen = Rc::<Cell<usize>>::default();
    let wants = [Wants::UP, Wants::all(), Wants::DOWN, Wants::UP];
    let valves = wants.map(|wants| Box::new(Asks(wants, seen.clone())) as Box<dyn Valve>);
    let (mut store, key) = row(valves.into());
    let message = |payload| Message {
        compressed: true,
        ..text(Direction::Up, payload)
    };
    let outcome = store.show(key, message(&hello), 100);
    assert_eq!(outcome, Outcome::Said(Verdict::Pass));
    assert_eq!(seen.get(), 7 + 5 + 7);
    assert_eq!(store.show(key, message(&hello), 4), Outcome::Garbled(1009));
    assert_eq!(
        store.show(key, message(&[0xff; 9]), 100),
        Outcome::Garbled(1007)
    );
}

#[test]
fn valves_that_panic_when_they_are_dropped_take_nobody_with_them() {
    struct Clings(Rc<Cell<u32>>);
    impl Valve for Clings {
        fn on(&mut self, _: &Message<'_>) -> Verdict {
            Verdict::Pass
        }
    }
    impl Drop for Clings {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            std::panic::resume_unwind(Box::new(1));
        }
    }
    let dropped = Rc::<Cell<u32>>::default();
    let clings = || Box::new(Clings(dropped.clone())) as Box<dyn Valve>;
    let (mut store, key) = row(vec![clings(), clings()]);
    store.drop_row(key);
    assert_eq!((dropped.get(), store.len()), (2, 0));
}
