//! Session descriptions in messages: which of them are offers and answers, and what goes out in their place.

use super::{
    calls::Call,
    dialogs::DialogId,
    plan::ForwardPlan,
    reading::{Refused, session_of},
    roles::Role,
    state::{Forward, InDialog, MediaPhase, Purpose, Turn},
    transactions::ClientTxId,
};
use crate::{
    engine::{CallSide, Refusal},
    media::{MediaPlan, RealmId},
    sdp::{Rewrite, Session},
    signalling::sip::Message,
};
use std::time::Instant;
use tracing::debug;

impl Turn<'_> {
    /// Reads the session description of a request, and puts the one for the other side into `plan`.
    pub(super) fn request_media(
        &mut self,
        id: DialogId,
        from: CallSide,
        request: &Message,
        plan: &mut ForwardPlan,
        now: Instant,
    ) -> Result<MediaPhase, Refused> {
        let Some(session) = session_of(request)? else { return Ok(MediaPhase::None) };
        let Some(call) = self.dialogs.call(id).map(|call| call.id) else { return Err(Refused(481)) };
        let method = request.method().unwrap_or_default();
        let open = self.core.open_offer(call);
        if method == "PRACK" && open == Some(from.other()) {
            let plans = self.core.answer(call, from, &session.descriptions(), false, now);
            plan.body = plans.map(|plans| self.written(&session, plan.realm, plans));
            return Ok(MediaPhase::None);
        }
        match open {
            // Both sides offered at once (RFC 3261 §14.2; RFC 3311 §5.2).
            Some(other) if other != from => return Err(Refused(491)),
            // A second offer before the answer to the first.
            Some(_) => return Err(Refused(500)),
            None => {}
        }
        let plans = self.core.offer(call, from, session.descriptions(), now).map_err(|refusal| {
            let begins = method == "INVITE" && request.to_tag().is_none();
            Refused(match refusal {
                Refusal::NotAdmitted(code) if begins => code,
                // A call that is there keeps what it has.
                Refusal::NotAdmitted(_) | Refusal::NothingToRelay => 488,
                Refusal::NoPorts | Refusal::TooManyCalls | Refusal::Stopping => 503,
                Refusal::NoCall => 481,
            })
        })?;
        plan.body = Some(self.written(&session, plan.realm, plans));
        // An ACK that comes now answers no earlier offer.
        if let Some(call) = self.dialogs.call_mut(id) {
            call.ack_answers = None;
        }
        Ok(MediaPhase::Offered)
    }

    /// What goes out in place of a response's session description; `None` where it has none.
    pub(super) fn response_body(
        &mut self,
        client: ClientTxId,
        forward: &Forward,
        responder: Option<Role>,
        response: &Message,
        code: u16,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let upstream = self.transactions.server(forward.server)?.realm();
        let session = match session_of(response) {
            Ok(session) => session?,
            // What cannot be read cannot be passed on: it may name addresses.
            Err(_) => return Some(Vec::new()),
        };
        let exchange =
            code < 300 && matches!(response.cseq().map(|cseq| cseq.method), Ok("INVITE" | "UPDATE" | "PRACK"));
        let media = match &forward.dialog {
            Some(place) if exchange => self.response_media(client, place, responder, &session, code, now),
            _ => None,
        };
        Some(self.written(&session, upstream, media.unwrap_or_default()))
    }

    /// Reads the offer or answer in a response; returns what goes to the requester.
    fn response_media(
        &mut self,
        client: ClientTxId,
        place: &InDialog,
        responder: Option<Role>,
        session: &Session,
        code: u16,
        now: Instant,
    ) -> Option<Vec<MediaPlan>> {
        let described = session.descriptions();
        let call = self.dialogs.call(place.id).filter(|call| self.core.is_live(call.id))?;
        let side = place.from.side();
        let id = call.id;
        if place.to.is_none()
            && let Some(Role::Answerer(index)) = responder
            && !call.confirmed.is_empty()
            && !call.confirmed.contains(&index)
        {
            // Another branch of a fork: media are with the one that answered first.
            return self.core.restate(id, side, &described);
        }
        match self.media_phase(client)? {
            MediaPhase::Offered | MediaPhase::Answered => {
                let plans = self.core.answer(id, side.other(), &described, code >= 200, now)?;
                self.set_media_phase(client, MediaPhase::Answered);
                Some(plans)
            }
            MediaPhase::None | MediaPhase::OfferedInResponse => {
                // A response cannot be refused: its media are.
                let plans = self.core.offer(id, side.other(), described, now);
                let plans = plans.inspect_err(|refusal| debug!(?refusal, "an offer in a response cannot be passed on"));
                let plans = plans.ok()?;
                self.set_media_phase(client, MediaPhase::OfferedInResponse);
                Some(plans)
            }
        }
    }

    /// The answer in an ACK, for the party that offered in its 2xx (RFC 3261 §13.2.1). One that holds none leaves the
    /// media as they were.
    pub(super) fn ack_body(
        &mut self,
        id: DialogId,
        from: Role,
        cseq: u32,
        to: RealmId,
        ack: &Message,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let owing = |call: &&Call| call.ack_answers == Some((from, cseq));
        let call = self.dialogs.call(id).filter(owing).map(|call| call.id);
        let session = match session_of(ack) {
            Ok(Some(session)) => session,
            unanswered => {
                if let Some(call) = call {
                    self.core.roll_back(call, now);
                }
                return unanswered.is_err().then(Vec::new);
            }
        };
        let described = session.descriptions();
        let answer = call.and_then(|call| self.core.answer(call, from.side(), &described, true, now));
        Some(self.written(&session, to, answer.unwrap_or_default()))
    }

    /// A session description as it goes into a realm. One that is neither offer nor answer states capabilities (RFC
    /// 3264 §9): it has no plans, and goes out with the proxy's address and every port 0.
    pub(super) fn written(&self, session: &Session, to: RealmId, media: Vec<MediaPlan>) -> Vec<u8> {
        session.rewrite(&Rewrite { address: self.core.media_address(to), media })
    }

    /// The final response to a request came, or none will: no answer to its offer comes any more.
    pub(super) fn close_offer(&mut self, place: &InDialog, phase: MediaPhase, code: u16, now: Instant) {
        let Some(call) = self.dialogs.call(place.id).map(|call| call.id) else { return };
        let success = (200..300).contains(&code);
        if phase == MediaPhase::Offered || (phase == MediaPhase::OfferedInResponse && !success) {
            self.core.roll_back(call, now);
        }
        if phase == MediaPhase::Answered && !success {
            self.core.undo(call, now);
        }
    }

    pub(super) fn media_phase(&self, client: ClientTxId) -> Option<MediaPhase> {
        match self.transactions.client(client)?.purpose() {
            Purpose::Forward(forward) => Some(forward.media),
            _ => None,
        }
    }

    fn set_media_phase(&mut self, client: ClientTxId, phase: MediaPhase) {
        if let Some(Purpose::Forward(forward)) = self.transactions.purpose_mut(client) {
            forward.media = phase;
        }
    }
}
