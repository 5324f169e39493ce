//! Session descriptions in messages: which of them are offers and answers, and what goes out in their place.

use super::{Engine, Forward, InDialog, MediaPhase, Purpose, dialogs::Role, requests::Way};
use crate::{
    engine::session::OfferError,
    media::{MediaPlan, RealmId},
    sdp::{Rewrite, Session},
    signalling::sip::{Message, Name},
};
use std::time::Instant;
use tracing::warn;

/// What is wrong with a session description in a request: the status code that says so.
#[derive(Debug)]
pub(super) struct Refused(pub(super) u16);

impl Engine {
    /// Reads the session description of a request, and puts the one for the other side into `way`.
    pub(super) fn request_media(
        &mut self,
        id: u64,
        from: usize,
        request: &Message,
        way: &mut Way,
        now: Instant,
    ) -> Result<MediaPhase, Refused> {
        let Some(session) = session_of(request)? else { return Ok(MediaPhase::None) };
        let method = request.method().unwrap_or_default();
        let open = self.call(id).and_then(|call| call.media.open_offer());
        if method == "PRACK" && open == Some(1 - from) {
            let answer = session.descriptions();
            let plans = self.with_media(id, now, |media, resources| media.answer(from, &answer, false, resources));
            way.body = plans.map(|plans| self.written(&session, way.realm, plans));
            return Ok(MediaPhase::None);
        }
        match open {
            // Both sides offered at once (RFC 3261, section 14.2; RFC 3311, section 5.2).
            Some(other) if other != from => return Err(Refused(491)),
            // A second offer before the answer to the first.
            Some(_) => return Err(Refused(500)),
            None => {}
        }
        if let Err(excess) = self.admit_offer(id, &session, now) {
            // A call that is there keeps what it has.
            let begins = method == "INVITE" && request.to_tag().is_none();
            return Err(Refused(if begins { excess.code } else { 488 }));
        }
        match self.with_media(id, now, |media, resources| media.offer(from, session.descriptions(), resources)) {
            Some(Ok(plans)) => {
                way.body = Some(self.written(&session, way.realm, plans));
                Ok(MediaPhase::Offered)
            }
            Some(Err(OfferError::PortsExhausted(realm))) => {
                let name = self.config.realms.get(realm).map_or("", |realm| realm.name.as_str());
                let limit = format!("ports of realm {name}");
                self.limited(&limit, now);
                Err(Refused(503))
            }
            Some(Err(OfferError::NothingToRelay)) => Err(Refused(488)),
            None => Err(Refused(481)),
        }
    }

    /// What goes out in place of a response's session description; `None` where it has none.
    pub(super) fn response_body(
        &mut self,
        client: u64,
        forward: &Forward,
        responder: Option<Role>,
        response: &Message,
        code: u16,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let upstream = self.servers.get(&forward.server)?.key.realm;
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
        client: u64,
        place: &InDialog,
        responder: Option<Role>,
        session: &Session,
        code: u16,
        now: Instant,
    ) -> Option<Vec<MediaPlan>> {
        let described = session.descriptions();
        let call = self.call(place.id).filter(|call| call.ended.is_none())?;
        let side = place.from.side();
        if place.to.is_none()
            && let Some(Role::Answerer(index)) = responder
            && !call.confirmed.is_empty()
            && !call.confirmed.contains(&index)
        {
            // Another branch of a fork: media are with the one that answered first.
            return Some(call.media.restate(side, &described));
        }
        let from = 1 - side;
        match self.media_phase(client)? {
            MediaPhase::Offered | MediaPhase::Answered => {
                if !call.media.is_answerer(from) {
                    return None;
                }
                self.set_media_phase(client, MediaPhase::Answered);
                self.with_media(place.id, now, |media, resources| {
                    media.answer(from, &described, code >= 200, resources)
                })
            }
            MediaPhase::None | MediaPhase::OfferedInResponse => {
                // A response cannot be refused: its media are.
                self.admit_offer(place.id, session, now).ok()?;
                self.set_media_phase(client, MediaPhase::OfferedInResponse);
                let offered =
                    self.with_media(place.id, now, |media, resources| media.offer(from, described, resources))?;
                offered.inspect_err(|error| warn!(?error, "an offer in a response cannot be passed on")).ok()
            }
        }
    }

    /// The answer in an ACK, for the party that offered in its 2xx (RFC 3261 §13.2.1). One that holds none leaves the
    /// media as they were.
    pub(super) fn ack_body(
        &mut self,
        id: u64,
        from: Role,
        cseq: u32,
        to: RealmId,
        ack: &Message,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let owed = self.call_mut(id).and_then(|call| call.ack_answers.take_if(|owed| *owed == (from, cseq)));
        let session = match session_of(ack) {
            Ok(Some(session)) => session,
            unanswered => {
                if owed.is_some() {
                    self.with_media(id, now, |media, resources| media.roll_back(resources));
                }
                return unanswered.is_err().then(Vec::new);
            }
        };
        let side = from.side();
        let answers = self.call(id).is_some_and(|call| call.ended.is_none() && call.media.is_answerer(side));
        let described = session.descriptions();
        let answer = answers
            .then(|| self.with_media(id, now, |media, resources| media.answer(side, &described, true, resources)))
            .flatten();
        Some(self.written(&session, to, answer.unwrap_or_default()))
    }

    /// A session description as it goes into a realm. One that is neither offer nor answer tells what its author could do
    /// (RFC 3264 §9): it has no plans, and goes out with the proxy's address and every port 0.
    pub(super) fn written(&self, session: &Session, to: RealmId, media: Vec<MediaPlan>) -> Vec<u8> {
        let address = self.media_addresses.get(to).copied().unwrap_or_else(|| [0, 0, 0, 0].into());
        session.rewrite(&Rewrite { address, media })
    }

    /// The final response to a request came, or none will: no answer to its offer comes any more.
    pub(super) fn offer_over(&mut self, place: &InDialog, phase: MediaPhase, code: u16, now: Instant) {
        let success = (200..300).contains(&code);
        if phase == MediaPhase::Offered || (phase == MediaPhase::OfferedInResponse && !success) {
            self.with_media(place.id, now, |media, resources| media.roll_back(resources));
        }
        if phase == MediaPhase::Answered && !success {
            self.with_media(place.id, now, |media, resources| media.undo(resources));
        }
    }

    pub(super) fn media_phase(&self, client: u64) -> Option<MediaPhase> {
        match &self.clients.get(&client)?.purpose {
            Purpose::Forward(forward) => Some(forward.media),
            _ => None,
        }
    }

    fn set_media_phase(&mut self, client: u64, phase: MediaPhase) {
        if let Some(Purpose::Forward(forward)) = self.clients.get_mut(&client).map(|client| &mut client.purpose) {
            forward.media = phase;
        }
    }
}

/// The session description in a message, if it has one.
pub(super) fn session_of(message: &Message) -> Result<Option<Session>, Refused> {
    if message.body().is_empty() {
        return Ok(None);
    }
    let content_type = message.content_type().unwrap_or_default();
    if !content_type.eq_ignore_ascii_case("application/sdp") {
        // A part of a multipart body may be one that must not pass unread.
        let several = content_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"));
        return if several && names_sdp(message.body()) { Err(Refused(415)) } else { Ok(None) };
    }
    let encoded = message.values(Name::ContentEncoding).any(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    if encoded {
        return Err(Refused(415));
    }
    Session::parse(message.body()).map(Some).map_err(|_| Refused(400))
}

/// Whether a part of a multipart body may be a session description.
fn names_sdp(body: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/sdp";
    body.windows(TYPE.len()).any(|window| window.eq_ignore_ascii_case(TYPE))
}
