//! Certificates for the testbed: an authority of its own, and what it signs, as files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one, with its certificate in `directory`.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.self_signed(&key)?;
        let authority = Self { directory: directory.into(), name: name.into(), issuer: Issuer::new(parameters, key) };
        std::fs::write(authority.file(), certificate.pem()).context("write an authority's certificate")?;
        Ok(authority)
    }

    /// Its certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.name))
    }

    /// Signs a certificate for these names and addresses, into `FILE-certificate.pem` and `FILE-key.pem`.
    pub fn issue(&self, file: &str, subjects: &[&str]) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let subjects: Vec<_> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        let mut parameters = CertificateParams::new(subjects.clone())?;
        parameters.distinguished_name.push(DnType::CommonName, subjects.first().map_or("", String::as_str));
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let path = |end: &str| self.directory.join(format!("{file}-{end}.pem"));
        let identity = Identity { certificate: path("certificate"), key: path("key") };
        std::fs::write(&identity.certificate, certificate.pem()).context("write a certificate")?;
        std::fs::write(&identity.key, key.serialize_pem()).context("write a key")?;
        Ok(identity)
    }
}
