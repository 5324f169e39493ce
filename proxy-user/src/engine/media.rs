//! Offers and answers of calls, and what the datapath reports of their media.

use super::{
    CallId, CallSide, Output, Refusal,
    core::{Core, LOG_PERIOD},
    session::MediaSession,
    slot::{OfferError, Resources},
};
use crate::{
    accounting::EndCause,
    media::{Description, MediaCommand, MediaEvent, MediaPlan, StreamId},
};
use rand::RngCore as _;
use std::time::Instant;
use tracing::{debug, warn};

impl Core {
    /// Takes an offer that a side of a call made; returns what is offered to the other side. A call keeps what it has
    /// where an offer is refused.
    ///
    /// # Errors
    /// Why it cannot be passed on.
    pub fn offer(
        &mut self,
        id: CallId,
        from: CallSide,
        media: Vec<Description>,
        now: Instant,
    ) -> Result<Vec<MediaPlan>, Refusal> {
        if !self.is_live(id) {
            return Err(Refusal::NoCall);
        }
        let wanted = media.iter().filter(|media| media.relayed).count();
        let fresh = wanted.saturating_sub(self.calls.get(&id).map_or(0, |call| call.media.live_specs().count()));
        self.take_offer(id, fresh, MediaSession::memory_of_offer(&media), now).map_err(|_| Refusal::NoPorts)?;
        self.admit_offer(id, &media, now).map_err(|excess| Refusal::NotAdmitted(excess.code))?;
        match self.with_media(id, now, |session, resources| session.offer(from, media, resources)) {
            Some(Ok(plans)) => Ok(plans),
            Some(Err(OfferError::PortsExhausted(realm))) => {
                let name = self.config.realms.get(realm).map_or("", |realm| realm.name.as_str());
                let limit = format!("ports of realm {name}");
                self.limited(&limit, now);
                Err(Refusal::NoPorts)
            }
            Some(Err(OfferError::NothingToRelay)) => Err(Refusal::NothingToRelay),
            None => Err(Refusal::NoCall),
        }
    }

    /// Takes the answer of a side to the last offer; returns what is answered to the side that offered, `None` where no
    /// answer is due. `last` says that no other answer to this offer can come, so what it refuses is given up.
    pub fn answer(
        &mut self,
        id: CallId,
        from: CallSide,
        media: &[Description],
        last: bool,
        now: Instant,
    ) -> Option<Vec<MediaPlan>> {
        let call = self.calls.get(&id).filter(|call| call.is_live())?;
        if !call.media.is_answerer(from) {
            return None;
        }
        self.with_media(id, now, |session, resources| session.answer(from, media, last, resources))
    }

    /// What goes to a side for descriptions that change nothing: the ports that its media have anyway.
    pub fn restate(&self, id: CallId, to: CallSide, media: &[Description]) -> Option<Vec<MediaPlan>> {
        self.calls.get(&id).map(|call| call.media.restate(to, media))
    }

    /// The side whose offer waits for its answer, if there is one.
    pub fn open_offer(&self, id: CallId) -> Option<CallSide> {
        self.calls.get(&id)?.media.open_offer()
    }

    /// Forgets an offer that nobody answered.
    pub fn roll_back(&mut self, id: CallId, now: Instant) {
        self.with_media(id, now, |session, resources| session.roll_back(resources));
    }

    /// The last offer failed, though it was answered for the time being: the media are as they were before it.
    pub fn undo(&mut self, id: CallId, now: Instant) {
        self.with_media(id, now, |session, resources| session.undo(resources));
    }

    /// The datapath reports.
    pub fn media_event(&mut self, event: MediaEvent, now: Instant) {
        match event {
            MediaEvent::Latched { stream, leg, rtcp, source, at } => {
                let Some(&call) = self.streams.get(&stream) else { return };
                debug!(?call, ?stream, leg, rtcp, %source, "latched");
                self.with_media(call, now, |session, _| session.latched(stream, leg, rtcp, source, at));
            }
            MediaEvent::Failed { stream } => {
                self.statistics.media_failed += 1;
                let Some(&call) = self.streams.get(&stream) else { return };
                self.hang_up(call, EndCause::Error);
            }
            MediaEvent::Silent { stream } => {
                let Some(&call) = self.streams.get(&stream) else { return };
                self.media_silent(call, stream, now);
            }
            MediaEvent::Strangers { stream, leg, packets } => {
                self.statistics.strangers += packets;
                let Some(&call) = self.streams.get(&stream) else { return };
                self.media_of_strangers(call, leg, packets, now);
            }
            MediaEvent::Released { stream, counters } => {
                let Some(call) = self.streams.remove(&stream) else { return };
                self.with_media(call, now, |session, resources| session.released(stream, counters, resources));
                self.record_if_over(call);
            }
        }
    }

    fn media_silent(&mut self, id: CallId, stream: StreamId, now: Instant) {
        let timeout = self.config.media.silence_timeout;
        let silent = self.with_media(id, now, |session, _| session.silent(stream, now, timeout)) == Some(true);
        if silent && self.is_answered(id) {
            self.hang_up(id, EndCause::MediaSilence);
        }
    }

    /// Tells the operator of media that others sent to a call's ports: an attack, or a NAT that gave the terminal
    /// another port. One line a second at most, however many calls it hits.
    fn media_of_strangers(&mut self, id: CallId, leg: usize, packets: u64, now: Instant) {
        if self.last_stranger_log.is_some_and(|at| now.saturating_duration_since(at) < LOG_PERIOD) {
            return;
        }
        self.last_stranger_log = Some(now);
        let Some(call) = self.calls.get(&id) else {
            return self.inconsistent("media of no call");
        };
        let from = if leg == 0 { "caller's" } else { "callee's" };
        warn!(call = call.name, packets, "dropped media that did not come from the {from} media address");
    }

    /// Runs `work` on the media of a call, counts what it is then, and passes on what it asks of the datapath.
    pub(super) fn with_media<T>(
        &mut self,
        id: CallId,
        now: Instant,
        work: impl FnOnce(&mut MediaSession, &mut Resources<'_>) -> T,
    ) -> Option<T> {
        let call = self.calls.get_mut(&id)?;
        let mut commands = Vec::new();
        let random = &mut self.random;
        let mut resources = Resources {
            allocators: &mut self.allocators,
            addresses: &self.media_addresses,
            realms: &self.config.realms,
            next_stream: &mut self.last_stream,
            random: &mut || random.next_u64(),
            commands: &mut commands,
            now,
        };
        let result = work(&mut call.media, &mut resources);
        if call.is_live() {
            let demand = call.media.demand(&self.config.realms);
            let calls = call.charge.calls();
            self.admission.charge(&mut call.charge, calls, demand);
        }
        for command in commands {
            if let MediaCommand::Apply(spec) = &command {
                self.streams.insert(spec.id, id);
            }
            self.outputs.push_back(Output::Media(command));
        }
        Some(result)
    }
}
