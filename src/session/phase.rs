//! Where a session is in its life, and which steps it may take.

/// ```text
/// Serving (a plain request on a bridge) begins and ends at Greeting, or in Parting.
///
///            Asked            101 from a server
/// Greeting ───────► Admitting ────────► Open ◄──────────┐
///    │                  │                │ │            │ 101 from the next
///    │ refused          │ refused        │ └─► Moving ─┐│
///    ▼                  ▼                │    (fence,  ││
///  Parting ◄────────────┴────────────────┤     barrier)▼│
///    ▲ ▲                                 └───────────► Held
///    │ │    all said, Close sent: its reply              │
///    │ └──────────────────── Finishing ◄── Open ◄───────┘
///    │                          │ lost: Held
///    ▼                          ▼
///  Over ◄───────────────────────┘
/// ```
/// Held goes to Finishing only through Open: what was held is delivered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The client's request head is being read.
    Greeting,
    /// A plain request for a bridge's client is read and answered.
    Serving,
    /// The client waits for its 101 while servers are tried.
    Admitting,
    /// Client and server are joined.
    Open,
    /// As `Open`, but the session leaves this server as soon as it is clean.
    Moving,
    /// No upstream: one is waited for, dialled or shaking hands.
    Held,
    /// The client has said its last; the server was told, and its reply is awaited.
    Finishing,
    /// There is no upstream and there will be none: the client's connection is being closed.
    Parting,
    /// Both legs are gone: to be buried.
    Over,
}

impl Phase {
    /// Whether the step is legal.
    pub fn may_become(self, next: Phase) -> bool {
        LEGAL
            .iter()
            .any(|(from, to)| *from == self && to.contains(&next))
    }

    /// What the admin API calls it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Greeting => "greeting",
            Phase::Serving => "serving",
            Phase::Admitting => "admitting",
            Phase::Open => "open",
            Phase::Moving => "moving",
            Phase::Held => "held",
            Phase::Finishing => "finishing",
            Phase::Parting => "parting",
            Phase::Over => "over",
        }
    }
}

/// The picture above, as data.
const LEGAL: &[(Phase, &[Phase])] = &[
    (
        Phase::Greeting,
        &[
            Phase::Serving,
            Phase::Admitting,
            Phase::Parting,
            Phase::Over,
        ],
    ),
    (
        Phase::Serving,
        &[Phase::Greeting, Phase::Parting, Phase::Over],
    ),
    (
        Phase::Admitting,
        &[Phase::Open, Phase::Parting, Phase::Over],
    ),
    (
        Phase::Open,
        &[
            Phase::Moving,
            Phase::Held,
            Phase::Finishing,
            Phase::Parting,
            Phase::Over,
        ],
    ),
    (
        Phase::Moving,
        &[
            Phase::Held,
            Phase::Open,
            Phase::Parting,
            Phase::Finishing,
            Phase::Over,
        ],
    ),
    (Phase::Held, &[Phase::Open, Phase::Parting, Phase::Over]),
    (
        Phase::Finishing,
        &[Phase::Held, Phase::Parting, Phase::Over],
    ),
    (Phase::Parting, &[Phase::Over]),
    (Phase::Over, &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Phase; 9] = [
        Phase::Greeting,
        Phase::Serving,
        Phase::Admitting,
        Phase::Open,
        Phase::Moving,
        Phase::Held,
        Phase::Finishing,
        Phase::Parting,
        Phase::Over,
    ];

    #[test]
    fn the_table_is_whole_and_every_phase_can_end() {
        for phase in ALL {
            assert_eq!(LEGAL.iter().filter(|(from, _)| *from == phase).count(), 1);
            assert!(
                phase == Phase::Over || phase.may_become(Phase::Over),
                "{phase:?} cannot end"
            );
            assert!(!phase.may_become(phase));
            assert!(!Phase::Over.may_become(phase), "nothing rises from Over");
        }
        assert!(
            !Phase::Greeting.may_become(Phase::Open),
            "a tunnel opens only after a 101"
        );
        assert!(
            !Phase::Held.may_become(Phase::Finishing),
            "what is held is delivered first"
        );
    }
}
