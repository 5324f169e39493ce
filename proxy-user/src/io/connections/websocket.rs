//! WebSocket (RFC 6455), as RFC 7118 uses it for SIP: each WebSocket message holds one of the protocol.

use super::{
    reason::Reason,
    task::{Connection, ConnectionEvent, Pace},
};
use crate::signalling::Frame;
use futures_util::{SinkExt as _, StreamExt as _};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

/// A peer that accepts no data for this long is given up.
const NOT_READ: Duration = Duration::from_secs(20);

pub(super) async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send>(connection: Connection, stream: S) -> Reason {
    let Connection { id, limits, mut framer, subprotocol, queue, mut outgoing, tell, .. } = connection;
    let config = WebSocketConfig::default()
        .read_buffer_size(4_096)
        .write_buffer_size(0)
        .max_write_buffer_size(limits.send_queue_bytes.max(65_536 + 1_024))
        .max_message_size(Some(limits.max_message_bytes))
        .max_frame_size(Some(limits.max_message_bytes));
    #[allow(clippy::result_large_err, reason = "the library's callback")]
    let negotiate = |request: &Request, response: Response| negotiate(subprotocol, request, response);
    let accept = accept_hdr_async_with_config(stream, negotiate, Some(config));
    let stream: WebSocketStream<S> = match timeout(limits.message_timeout, accept).await {
        Err(_) => return Reason::Slow,
        Ok(Err(_)) => return Reason::Handshake,
        Ok(Ok(stream)) => stream,
    };
    let pace = Pace::new(&limits, true);
    let (mut sink, mut source) = stream.split();
    let write = async {
        while let Some(bytes) = outgoing.recv().await {
            let length = bytes.len();
            // Both are allowed (RFC 7118 §5); most are text.
            let message =
                String::from_utf8(bytes).map_or_else(|error| Message::binary(error.into_bytes()), Message::text);
            match timeout(NOT_READ, sink.send(message)).await {
                Err(_) => return Reason::NotRead,
                Ok(Err(_)) => return Reason::Error,
                Ok(Ok(())) => queue.written(length),
            }
            pace.touch();
        }
        Reason::Error
    };
    let read = async {
        loop {
            let bytes = match pace.within(false, source.next()).await {
                Err(reason) => return reason,
                Ok(None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed))) => return Reason::Peer,
                Ok(Some(Err(Error::Capacity(CapacityError::MessageTooLong { .. })))) => return Reason::TooLarge,
                Ok(Some(Err(Error::Io(_)))) => return Reason::Error,
                Ok(Some(Err(_))) => return Reason::Malformed,
                Ok(Some(Ok(Message::Text(text)))) => text.as_bytes().to_vec(),
                Ok(Some(Ok(Message::Binary(bytes)))) => bytes.to_vec(),
                // The library answers those that need an answer.
                Ok(Some(Ok(_))) => continue,
            };
            framer.push(&bytes);
            loop {
                match framer.next_frame() {
                    Ok(None) => break,
                    Ok(Some(Frame::KeepAlive(answer))) => {
                        if !queue.push(answer) {
                            return Reason::NotRead;
                        }
                    }
                    Ok(Some(Frame::Message(bytes))) => {
                        pace.message();
                        if tell.send(ConnectionEvent::Message(id, bytes)).await.is_err() {
                            return Reason::Error;
                        }
                    }
                    Err(broken) => return broken.fault.into(),
                }
            }
        }
    };
    tokio::select! {
        reason = read => reason,
        reason = write => reason,
    }
}

/// A client that does not ask for the protocol is refused.
#[allow(clippy::result_large_err, reason = "the library's callback")]
fn negotiate(
    subprotocol: Option<&'static str>,
    request: &Request,
    mut response: Response,
) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut names = offered.flat_map(|value| value.split(',')).map(str::trim);
    if let Some(subprotocol) = subprotocol
        && names.any(|name| name.eq_ignore_ascii_case(subprotocol))
    {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        return Ok(response);
    }
    let needed = subprotocol.map(|subprotocol| format!("the subprotocol {subprotocol} is needed"));
    let mut refusal = ErrorResponse::new(needed);
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    Err(refusal)
}
