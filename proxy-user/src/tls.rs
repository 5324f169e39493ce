//! Certificates, keys and authorities, from files into what TLS works with.

use crate::{
    config::{Certificate, Realm},
    flow::Transport,
};
use anyhow::{Context as _, Error, Result, anyhow, ensure};
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
pub(crate) struct Tls {
    pub(crate) acceptor: Option<TlsAcceptor>,
    connector: Option<TlsConnector>,
    /// The softswitch, and the name that it has to prove.
    server: Option<(IpAddr, ServerName<'static>)>,
}

/// What cannot be used, and the field of the realm that is the cause.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) field: &'static str,
    pub(crate) error: Error,
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Self {
        unusable.error.context(unusable.field)
    }
}

/// Blames a field.
fn of<T>(field: &'static str, outcome: Result<T>) -> Result<T, Unusable> {
    outcome.map_err(|error| Unusable { field, error })
}

impl Tls {
    /// Reads the files that the realm names.
    pub(crate) fn load(realm: &Realm) -> Result<Self, Unusable> {
        let streams = &realm.streams;
        let provider = Arc::new(ring::default_provider());
        let identity = match &streams.certificate {
            Some(Certificate { chain, key }) => {
                let read = PrivateKeyDer::from_pem_file(key);
                let read = read.with_context(|| format!("{} cannot be read as a key in PEM", key.display()));
                Some((of("certificate", certificates(chain))?, of("key", read)?))
            }
            None => None,
        };
        let listens = streams.tls.or(streams.wss).is_some();
        let acceptor = match &identity {
            Some((chain, key)) if listens => {
                let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
                let builder = of("certificate", builder.with_safe_default_protocol_versions().map_err(Error::from))?;
                let builder = match &streams.client_ca {
                    None => builder.with_no_client_auth(),
                    Some(file) => {
                        let roots = of("client_ca", authorities(file))?.into();
                        let verifier =
                            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
                        builder.with_client_cert_verifier(of("client_ca", verifier.map_err(Error::from))?)
                    }
                };
                let config = builder.with_single_cert(chain.clone(), key.clone_key()).map_err(Error::from);
                Some(TlsAcceptor::from(Arc::new(of("certificate", config)?)))
            }
            _ if listens => return of("certificate", Err(anyhow!("is missing: TLS needs one"))),
            _ => None,
        };
        let connector = match &streams.server_ca {
            Some(file) if streams.softswitch == Transport::Tls => {
                let roots = of("server_ca", authorities(file))?;
                let config = of("certificate", client(provider, roots, identity))?;
                Some(TlsConnector::from(Arc::new(config)))
            }
            _ => None,
        };
        let server = match (realm.softswitch, &streams.server_name) {
            (Some(softswitch), Some(name)) => {
                let parsed = ServerName::try_from(name.clone());
                let parsed = parsed.with_context(|| format!("\"{name}\" is not a host name"));
                Some((softswitch.ip(), of("server_name", parsed)?))
            }
            _ => None,
        };
        Ok(Self { acceptor, connector, server })
    }

    /// How to connect to an address of the core, and the name that it has to prove: its address, except for a
    /// softswitch with a name of its own.
    pub(crate) fn connector(&self, remote: IpAddr) -> Option<(TlsConnector, ServerName<'static>)> {
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

fn authorities(file: &Path) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store
            .add(certificate)
            .with_context(|| format!("{} contains a certificate that is not an authority", file.display()))?;
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.with_context(|| format!("{} cannot be read as PEM", file.display()))?;
    ensure!(!certificates.is_empty(), "{} holds no certificate", file.display());
    Ok(certificates)
}
