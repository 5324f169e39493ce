//! Certificates, keys and authorities, from files into what TLS works with.

use crate::{
    config::{Certificate, Realm},
    flow::Transport,
};
use anyhow::{Context as _, Result, ensure};
use std::{net::IpAddr, path::Path, sync::Arc};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

/// A realm's TLS, as it is for new connections.
#[derive(Clone, Default)]
pub(super) struct Tls {
    pub(super) acceptor: Option<TlsAcceptor>,
    connector: Option<TlsConnector>,
    /// The softswitch, and the name that it has to prove.
    server: Option<(IpAddr, ServerName<'static>)>,
}

impl Tls {
    /// Reads the files that the realm names.
    pub(super) fn load(realm: &Realm) -> Result<Self> {
        let streams = &realm.streams;
        let provider = Arc::new(ring::default_provider());
        let identity = streams.certificate.as_ref().map(identity).transpose()?;
        let listens = streams.tls.or(streams.wss).is_some();
        let acceptor = match &identity {
            Some((chain, key)) if listens => {
                let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_safe_default_protocol_versions()
                    .context("TLS has no protocol version")?;
                let builder = match &streams.client_ca {
                    None => builder.with_no_client_auth(),
                    Some(file) => builder.with_client_cert_verifier(
                        WebPkiClientVerifier::builder_with_provider(authorities(file)?.into(), Arc::clone(&provider))
                            .build()
                            .with_context(|| format!("client_ca {} cannot be used", file.display()))?,
                    ),
                };
                let config = builder.with_single_cert(chain.clone(), key.clone_key());
                Some(TlsAcceptor::from(Arc::new(config.with_context(|| unusable(realm))?)))
            }
            _ => {
                ensure!(!listens, "realm {} listens for TLS and has no certificate", realm.name);
                None
            }
        };
        let connector = match &streams.server_ca {
            Some(file) if streams.softswitch == Transport::Tls => {
                let config = client(provider, authorities(file)?, identity).with_context(|| unusable(realm))?;
                Some(TlsConnector::from(Arc::new(config)))
            }
            _ => None,
        };
        let server = match (realm.softswitch, &streams.server_name) {
            (Some(softswitch), Some(name)) => {
                let parsed = ServerName::try_from(name.clone());
                Some((softswitch.ip(), parsed.with_context(|| format!("server_name \"{name}\" is no name of a host"))?))
            }
            _ => None,
        };
        Ok(Self { acceptor, connector, server })
    }

    /// How to connect to an address of the core, and the name that it has to prove: its address, but for the softswitch
    /// with a name of its own.
    pub(super) fn connector(&self, remote: IpAddr) -> Option<(TlsConnector, ServerName<'static>)> {
        let named = self.server.as_ref().filter(|(softswitch, _)| *softswitch == remote).map(|(_, name)| name.clone());
        Some((self.connector.clone()?, named.unwrap_or(ServerName::IpAddress(remote.into()))))
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client(provider: Arc<CryptoProvider>, roots: RootCertStore, identity: Option<Identity>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match identity {
        // Shown only to a softswitch that asks.
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    })
}

fn unusable(realm: &Realm) -> String {
    let certificate = realm.streams.certificate.as_ref();
    let files = certificate.map(|of| format!("certificate {} and key {}", of.chain.display(), of.key.display()));
    format!("realm {}: {} cannot be used together", realm.name, files.unwrap_or_default())
}

fn identity(files: &Certificate) -> Result<Identity> {
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.with_context(|| format!("key {} cannot be read as PEM", files.key.display()))?;
    Ok((certificates(&files.chain)?, key))
}

fn authorities(file: &Path) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store.add(certificate).with_context(|| format!("{} holds something that is no authority", file.display()))?;
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.with_context(|| format!("{} cannot be read as PEM", file.display()))?;
    ensure!(!certificates.is_empty(), "{} holds no certificate", file.display());
    Ok(certificates)
}
