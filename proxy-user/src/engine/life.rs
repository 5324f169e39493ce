//! How calls begin, are answered and end.

use super::{
    CallEvent, CallId, CallSide, CallStart, Core, Output, Refusal,
    admission::Charge,
    calls::{Call, State},
    session::{LONGEST_HOLD, MediaSession},
    slot::Side,
};
use crate::{accounting::EndCause, flow::Flow};
use std::time::{Duration, Instant};
use tracing::{debug, info};

/// How many calls end in a turn while the proxy stops, ...
const STOP_BATCH: usize = 50;
/// ... and how long a turn is: 5,000 calls a second.
const STOP_PERIOD: Duration = Duration::from_millis(10);

impl Core {
    /// Begins a call, if the limits allow it. A refused call has its record too.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn begin(&mut self, start: CallStart, now: Instant) -> Result<CallId, Refusal> {
        if self.stopped {
            return Err(Refusal::Stopping);
        }
        if self.counted >= self.config.limits.max_calls {
            self.limited("max_calls", now);
            return Err(Refusal::TooManyCalls);
        }
        let CallStart { owner, name, sides, caller, callee, terminal: (terminal_side, terminal), user } = start;
        let side = |(realm, signalling)| {
            let trust = self.trust(realm);
            Side { realm, signalling, trusted: trust.trusted, believed: trust.believes_media }
        };
        let media = MediaSession::new(sides.map(side));
        let realms = sides.map(|(realm, _)| realm);
        let record = u128::from(self.random()) << 64 | u128::from(self.random());
        self.last_call += 1;
        let id = CallId(self.last_call);
        let call = Call {
            owner,
            name,
            realms,
            terminal_side,
            record,
            media,
            charge: Charge::new(realms, user),
            caller,
            callee,
            terminal,
            started: now,
            state: State::Setup,
            idle: false,
            stranger: None,
            held: Vec::new(),
        };
        info!(call = call.name, caller = call.caller, callee = call.callee, source = %call.terminal.source, "call begins");
        self.calls.insert(id, call);
        self.counted += 1;
        match self.admit_call(id, now) {
            Ok(()) => Ok(id),
            Err(excess) => {
                self.end(id, EndCause::Rejected, Some(excess.code), now);
                Err(Refusal::NotAdmitted(excess.code))
            }
        }
    }

    /// Whether a call is live: being set up, or answered.
    pub fn is_live(&self, id: CallId) -> bool {
        self.calls.get(&id).is_some_and(Call::is_live)
    }

    /// Whether a call was answered and has not ended.
    pub fn is_answered(&self, id: CallId) -> bool {
        self.calls.get(&id).is_some_and(Call::is_answered)
    }

    /// The called side has answered.
    pub fn answered(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else {
            return self.inconsistent("an answer to no call");
        };
        if let State::Setup = call.state {
            call.state = State::Answered { at: now };
            (call.stranger, call.held) = (None, Vec::new());
            info!(call = call.name, "call answered");
            self.timers.set(now + LONGEST_HOLD, id);
        }
    }

    /// A call is over; `code` is what its protocol says of it, for the record. Of a call that has ended nothing
    /// changes.
    pub fn end(&mut self, id: CallId, cause: EndCause, code: Option<u16>, now: Instant) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_live()) else { return };
        let answered = match call.state {
            State::Answered { at } => Some(at),
            _ => None,
        };
        call.state = State::Ended { answered, at: now, cause, code };
        info!(call = call.name, ?cause, code, "call ends");
        self.close(id, now);
    }

    /// It was no call after all, only a request that was challenged: it has no record.
    pub fn withdraw(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_live()) else { return };
        debug!(call = call.name, "call withdrawn");
        call.state = State::Withdrawn;
        self.counted -= 1;
        self.close(id, now);
    }

    fn close(&mut self, id: CallId, now: Instant) {
        self.with_media(id, now, |media, resources| media.close(resources));
        self.discharge(id);
        self.timers.cancel(&id);
        self.record_if_over(id);
    }

    /// Writes the record of a call that has ended and whose last counters have come, and forgets it.
    pub(super) fn record_if_over(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id).filter(|call| !call.is_live() && call.media.is_closed()) else { return };
        if let Some(cdr) = call.cdr(&self.clock) {
            self.outputs.push_back(Output::Record(Box::new(cdr)));
            self.counted -= 1;
        }
        self.calls.remove(&id);
    }

    /// One side of a call is in another place now: what it sends from there is let in, and media goes there.
    pub fn moved(&mut self, id: CallId, side: CallSide, to: Flow, now: Instant) {
        self.with_media(id, now, |media, resources| media.moved(side, to.ip(), resources));
    }

    /// Latch ends a call: its protocol tells both sides.
    pub(super) fn hang_up(&mut self, id: CallId, cause: EndCause) {
        if let Some(call) = self.calls.get(&id).filter(|call| call.is_live()) {
            self.events.push_back((call.owner.clone(), id, CallEvent::HangUp(cause)));
        }
    }

    /// A call whose media the relay does not carry is never silent. It ends when it is found without any twice, as
    /// nothing tells whether its parties are still there.
    pub(super) fn look_after(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_answered()) else { return };
        let was_idle = std::mem::replace(&mut call.idle, call.media.is_idle());
        if was_idle && call.idle {
            return self.hang_up(id, EndCause::MediaSilence);
        }
        self.timers.set(now + LONGEST_HOLD, id);
    }

    /// Begins to end all calls, some at a time, so that neither a network nor a softswitch is flooded. None begins any
    /// more.
    pub fn shutdown(&mut self, now: Instant) {
        self.stopped = true;
        let mut ids: Vec<_> = self.calls.iter().filter(|(_, call)| call.is_live()).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        self.stopping.extend(ids);
        self.stop_some(now);
    }

    pub(super) fn stop_some(&mut self, now: Instant) {
        let some = self.stopping.len().min(STOP_BATCH);
        let ids: Vec<_> = self.stopping.drain(..some).collect();
        for id in ids {
            self.hang_up(id, EndCause::Shutdown);
        }
        self.stop_at = (!self.stopping.is_empty()).then_some(now + STOP_PERIOD);
    }

    /// Whether calls are still to be ended because the proxy is stopping.
    pub fn is_ending(&self) -> bool {
        !self.stopping.is_empty()
    }

    /// Whether no call waits for its end.
    pub fn is_idle(&self) -> bool {
        self.counted == 0
    }
}
