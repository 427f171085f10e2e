//! Bugs planted on purpose, behind a feature: each must be found by a sweep of the simulator. A law
//! that finds none of them proves nothing.

use std::cell::Cell;

/// A planted bug; see where each is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A client keeps the key of the upstream that it has let go.
    PairKept,
    /// A replay begins where the last server's writes ended.
    ReplayFromSent,
    /// A Pong that nobody asked for confirms.
    UnknownPongConfirms,
    /// A barrier counts the message that is still on its way.
    PartialConfirmed,
    /// A barrier is put in where a frame was cut.
    BarrierInsideFrame,
    /// What was collected of a message reaches the client when its server is lost.
    HalfDraftDelivered,
    /// A Pong to the client is put into a frame that streams.
    PongInsideFrame,
    /// A Pong that was owed follows our Close.
    PongBehindClose,
    /// The connection to the old server is forgotten, not closed.
    OldUpstreamKept,
    /// What was kept of a server's last read is dropped without its store.
    ChunkLeaked,
    /// A buried session's timer stays armed.
    TimerLeft,
    /// One way to end does not count what is unconfirmed.
    EndUncounted,
    /// `X-Wsteady-Next` leaves out one message.
    NextOffByOne,
    /// A leg's deadline runs on while it is not read.
    PausedIsSilent,
    /// A client that was paused is never read again.
    PausedForever,
    /// The time of one message runs on through all that follow it.
    BusyIsLate,
    /// What the socket refused is queued before what was queued.
    DownOvertakes,
    /// `session.hold` does not end a hold.
    HoldForever,
    /// A session that must wait for its turn once more is forgotten.
    QueueLoses,
    /// An open breaker forbids the only server, for ever.
    LastHopeForbidden,
    /// A closed client's place is not given back.
    BudgetKept,
    /// A closed client counts on under its address.
    QuotaKept,
    /// Who came when descriptors were scarce begins a session.
    ScarceLetIn,
    /// Once memory was short, it is short for ever.
    PressureForever,
    /// Another request follows the last one.
    LastForgotten,
    /// A move does not wait for the barrier's Pong.
    MoveBeforePong,
    /// A message may kill any number of servers.
    PoisonForever,
    /// New bytes are read while not all that was kept fits before them.
    NewBeforeKept,
    /// A short read is believed to be the last although the stream has ended.
    ShortReadAtEnd,
    /// Any Close counts as the reply to ours.
    CrossedCloseConfirms,
    /// A server hears a second Close behind the first.
    SecondClose,
    /// A broken client that is not being read is never noticed.
    BrokenUnseen,
    /// A client's reset behind its FIN is not noticed.
    ResetBehindFin,
    /// A probe that lacks a descriptor speaks against the server.
    WantBlamed,
    /// Other probes begin from health, whatever their server was held for.
    TrendForgets,
    /// When the 32-bit clock wraps, the connect rate waits for 49 days.
    RateWraps,
    /// A walk goes on with the last client that it told.
    CastRepeats,
    /// What another node has passed on is passed on.
    HopGoesOn,
    /// A drain closes the connections of other nodes.
    NodeSentAway,
    /// It does not tell them that it drains.
    DrainUnsaid,
    /// A push for a client who is leaving is not looked for elsewhere.
    LeaverNotPassedOn,
    /// A POST that is made again gets another number.
    RenumberedCall,
    /// A connection is used again although its last answer was not its last bytes.
    DirtyReused,
    /// What a connection says at rest is the answer to whoever takes it next.
    SpoiledTaken,
    /// A ClientId is free before its DELETE.
    FreedEarly,
    /// An answer reaches the client twice.
    ReplyTwice,
    /// A call that must wait for a connection once more is forgotten.
    WaitingLost,
    /// Clients that were not read while many calls waited are never read again.
    CrowdForgotten,
    /// A connection whose end waits its turn is never looked at.
    EndedForgotten,
    /// A connection whose end is put off for its pool's connect rate is never looked at.
    PutOffForgotten,
    /// A session arrives at a server that has been left while it was on its way.
    DialGoesOn,
    /// A POST that may have reached its server is asked of another.
    PostAskedAgain,
    /// An answer that was cut gets the end of one that is whole.
    CutSeemsWhole,
    /// An answer that is cut ends with a FIN where that is the end of a whole one.
    FinForCut,
    /// A connection whose server has answered half a request is used again.
    HalfAskedReused,
    /// The answer to HEAD is awaited with a body.
    HeadHasBody,
    /// An upload goes on when its client has read something, not when its server has.
    UploadUnpaused,
    /// A shard gives connections away that are its own by right, and asks them back.
    ShareGiven,
    /// A connection that was closed at rest still counts.
    PermitKept,
    /// A probe that hangs is never given up.
    ProbeHangs,
    /// What a probe has found is not told to the other shards.
    VerdictUnsent,
    /// The answer to a request that came too late goes into the one that is under way.
    LateInsideAnswer,
    /// Only the last piece of a client's message is kept from passing before a valve has seen it.
    ValveSkipsPieces,
    /// What was gathered of a message is there for the next one, too.
    DroppedStays,
    /// What a valve answers is put into a message that streams.
    AnswerInsideMessage,
    /// The valves of a session outlive it.
    ValvesKept,
    /// What was pushed before the 101 goes past no valve.
    EarlyUnseen,
    /// What the kernel did not take of a record is dropped.
    OwedForgotten,
    /// The beginning of a record is dropped when its rest has not come with it.
    SealedLost,
    /// What was said with the end of a handshake is dropped.
    WordsLost,
    /// A line does not tell of what it has read already.
    AgainForgotten,
    /// A connection that was cut off has ended.
    CutIsEnd,
    /// What the other side says with its last word is dropped.
    LastWordsLost,
    /// A PROXY header is believed whoever sends it.
    HeaderBelieved,
    /// What came behind a PROXY header is dropped.
    RequestBehindHeaderLost,
    /// A guest who says nothing may stay.
    GuestStays,
    /// A line that owes is closed at once.
    DebtsForgotten,
    /// A line that nobody has any more, and that never pays, stays.
    LineKept,
    /// A change of keys is not answered if nothing was said with it.
    UpdateUnanswered,
    /// A stream's word on another message is taken for this one's.
    #[cfg(feature = "nats")]
    AckOfAnother,
    /// A NATS server's Ping is never answered.
    #[cfg(feature = "nats")]
    PongForgotten,
}

impl Bug {
    /// All of them.
    pub const ALL: &'static [Bug] = &[
        Bug::PairKept,
        Bug::ReplayFromSent,
        Bug::UnknownPongConfirms,
        Bug::PartialConfirmed,
        Bug::BarrierInsideFrame,
        Bug::HalfDraftDelivered,
        Bug::PongInsideFrame,
        Bug::PongBehindClose,
        Bug::OldUpstreamKept,
        Bug::ChunkLeaked,
        Bug::TimerLeft,
        Bug::EndUncounted,
        Bug::NextOffByOne,
        Bug::PausedIsSilent,
        Bug::PausedForever,
        Bug::BusyIsLate,
        Bug::DownOvertakes,
        Bug::HoldForever,
        Bug::QueueLoses,
        Bug::LastHopeForbidden,
        Bug::BudgetKept,
        Bug::QuotaKept,
        Bug::ScarceLetIn,
        Bug::PressureForever,
        Bug::LastForgotten,
        Bug::MoveBeforePong,
        Bug::PoisonForever,
        Bug::NewBeforeKept,
        Bug::ShortReadAtEnd,
        Bug::CrossedCloseConfirms,
        Bug::SecondClose,
        Bug::BrokenUnseen,
        Bug::ResetBehindFin,
        Bug::WantBlamed,
        Bug::TrendForgets,
        Bug::RateWraps,
        Bug::CastRepeats,
        Bug::HopGoesOn,
        Bug::NodeSentAway,
        Bug::DrainUnsaid,
        Bug::LeaverNotPassedOn,
        Bug::RenumberedCall,
        Bug::DirtyReused,
        Bug::SpoiledTaken,
        Bug::FreedEarly,
        Bug::ReplyTwice,
        Bug::WaitingLost,
        Bug::CrowdForgotten,
        Bug::ShareGiven,
        Bug::EndedForgotten,
        Bug::PutOffForgotten,
        Bug::DialGoesOn,
        Bug::PostAskedAgain,
        Bug::CutSeemsWhole,
        Bug::FinForCut,
        Bug::HalfAskedReused,
        Bug::HeadHasBody,
        Bug::UploadUnpaused,
        Bug::PermitKept,
        Bug::ProbeHangs,
        Bug::VerdictUnsent,
        Bug::LateInsideAnswer,
        Bug::ValveSkipsPieces,
        Bug::DroppedStays,
        Bug::AnswerInsideMessage,
        Bug::ValvesKept,
        Bug::EarlyUnseen,
        Bug::OwedForgotten,
        Bug::SealedLost,
        Bug::WordsLost,
        Bug::AgainForgotten,
        Bug::CutIsEnd,
        Bug::LastWordsLost,
        Bug::HeaderBelieved,
        Bug::RequestBehindHeaderLost,
        Bug::GuestStays,
        Bug::DebtsForgotten,
        Bug::LineKept,
        Bug::UpdateUnanswered,
        #[cfg(feature = "nats")]
        Bug::AckOfAnother,
        #[cfg(feature = "nats")]
        Bug::PongForgotten,
    ];

    /// Whether it is a bug of the bridge, which is looked for in a world of its own.
    pub fn is_bridges(self) -> bool {
        matches!(
            self,
            Bug::RenumberedCall
                | Bug::CastRepeats
                | Bug::HopGoesOn
                | Bug::NodeSentAway
                | Bug::DrainUnsaid
                | Bug::LeaverNotPassedOn
                | Bug::DirtyReused
                | Bug::SpoiledTaken
                | Bug::FreedEarly
                | Bug::ReplyTwice
                | Bug::WaitingLost
                | Bug::CrowdForgotten
                | Bug::ShareGiven
                | Bug::EarlyUnseen
        )
    }

    /// Whether it is a bug of the NATS dialect, which is looked for before NATS servers.
    #[cfg(feature = "nats")]
    pub fn is_of_nats(self) -> bool {
        matches!(self, Bug::AckOfAnother | Bug::PongForgotten)
    }

    /// Whether it is a bug of HTTP pools or of probes, which have a world of their own, too.
    pub fn is_of_http(self) -> bool {
        matches!(
            self,
            Bug::ResetBehindFin
                | Bug::WantBlamed
                | Bug::LastForgotten
                | Bug::TrendForgets
                | Bug::PostAskedAgain
                | Bug::CutSeemsWhole
                | Bug::FinForCut
                | Bug::HalfAskedReused
                | Bug::HeadHasBody
                | Bug::UploadUnpaused
                | Bug::PermitKept
                | Bug::ProbeHangs
                | Bug::VerdictUnsent
                | Bug::LateInsideAnswer
        )
    }
}

thread_local! {
    static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread, or none.
pub fn plant(bug: Option<Bug>) {
    ACTIVE.set(bug);
}

/// Whether this bug is planted here.
pub fn on(bug: Bug) -> bool {
    ACTIVE.get() == Some(bug)
}
