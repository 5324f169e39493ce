//! Kamailio as the softswitch: registrar and proxy, with a configuration of its own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::certificates::Identity;
use crate::peer::{Peer, wait_until};
use crate::topology::{Testbed, address};

/// Somebody who may register: `sip:NAME@example.test`.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The user part, and the digest user name.
    pub name: &'static str,
    /// The digest password.
    pub password: &'static str,
}

/// How the softswitch behaves.
#[derive(Clone, Debug)]
pub struct KamailioConfig {
    /// The users who may register and call, where `digest` is on. Without digest everybody may.
    pub users: Vec<User>,
    /// Challenge REGISTER (401) and INVITE from users (407).
    pub digest: bool,
    /// The longest registration it grants, in seconds.
    pub max_expires_s: u32,
    /// Send requests to where the REGISTER came from rather than to its Contact: only for phones that come here
    /// through a NAT without Latch.
    pub nat_aware: bool,
    /// Listen for TCP too, at port 5060.
    pub tcp: bool,
    /// Listen for TLS too, at port 5061.
    pub tls: Option<KamailioTls>,
}

/// Files of TLS.
#[derive(Clone, Debug)]
pub struct KamailioTls {
    /// Its certificate and key.
    pub identity: Identity,
    /// The authority that must have signed the certificates of others.
    pub ca: PathBuf,
    /// Ask clients for a certificate.
    pub mutual: bool,
}

impl Default for KamailioConfig {
    fn default() -> Self {
        let users = [("alice", "wonderland"), ("bob", "builder"), ("carol", "christmas"), ("dave", "copperfield")];
        Self {
            users: users.map(|(name, password)| User { name, password }).to_vec(),
            digest: false,
            max_expires_s: 3600,
            nat_aware: false,
            tcp: false,
            tls: None,
        }
    }
}

/// A registered contact, as the softswitch knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The user part of the address of record.
    pub user: String,
    /// The Contact URI.
    pub uri: String,
    /// Seconds until it expires.
    pub expires_s: i64,
}

/// A running Kamailio.
#[derive(Debug)]
pub struct Kamailio {
    /// The process.
    pub peer: Peer,
    control: PathBuf,
}

impl Kamailio {
    /// The SIP domain it is responsible for.
    pub const DOMAIN: &'static str = "example.test";

    /// Starts it in the softswitch's namespace on 10.9.0.20:5060 and waits until it answers.
    pub fn start(testbed: &Testbed, config: &KamailioConfig) -> Result<Self> {
        Self::start_at(testbed, "kamailio", testbed.softswitch(), address::SOFTSWITCH, config)
    }

    /// Starts it anywhere, on port 5060 of `local`.
    pub fn start_at(
        testbed: &Testbed,
        name: &str,
        namespace: &crate::Namespace,
        local: Ipv4Addr,
        config: &KamailioConfig,
    ) -> Result<Self> {
        let directory = testbed.directory().join(name);
        std::fs::create_dir_all(&directory)?;
        let control = directory.join("ctl");
        let file = directory.join("kamailio.cfg");
        if let Some(tls) = &config.tls {
            std::fs::write(directory.join("ctl.tls"), tls_configuration(tls)).context("write the TLS configuration")?;
        }
        std::fs::write(&file, configuration(SocketAddrV4::new(local, 5060), &control.to_string_lossy(), config))
            .context("write kamailio.cfg")?;

        let mut command = namespace.command("kamailio")?;
        // 128 MB shared and 16 MB private: enough for thousands of calls, quick to start.
        command.args(["-DD", "-E", "-m", "128", "-M", "16", "-Y"]).arg(&directory).arg("-f").arg(&file);
        let kamailio = Self { peer: Peer::start(name, command, &testbed.logs())?, control };
        wait_until("kamailio answers its control socket", Duration::from_secs(10), || {
            Ok(kamailio.command(&["core.uptime"]).is_ok())
        })?;
        Ok(kamailio)
    }

    /// Every registered contact.
    pub fn contacts(&self) -> Result<Vec<Contact>> {
        Ok(parse_contacts(&self.command(&["ul.dump"])?))
    }

    /// The contacts of one user.
    pub fn contacts_of(&self, user: &str) -> Result<Vec<Contact>> {
        Ok(self.contacts()?.into_iter().filter(|contact| contact.user == user).collect())
    }

    /// Waits until `user` has exactly `count` contacts; them.
    pub fn wait_for_contacts(&self, user: &str, count: usize, timeout: Duration) -> Result<Vec<Contact>> {
        let mut contacts = Vec::new();
        wait_until(&format!("{user} has {count} contacts"), timeout, || {
            contacts = self.contacts_of(user)?;
            Ok(contacts.len() == count)
        })?;
        Ok(contacts)
    }

    /// A command of `kamcmd`; what it printed.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new("kamcmd");
        command.arg("-s").arg(format!("unix:{}", self.control.display())).args(words);
        crate::netns::run(&mut command)
    }
}

fn configuration(listen: SocketAddrV4, control: &str, config: &KamailioConfig) -> String {
    let digest = if config.digest { "#!define DIGEST\n" } else { "" };
    let nat_aware = if config.nat_aware { "#!define NAT_AWARE\n" } else { "" };
    let passwords: String = config
        .users
        .iter()
        .map(|user| format!("        case \"{}\": $var(password) = \"{}\"; break;\n", user.name, user.password))
        .collect();
    let tcp = if config.tcp { "#!define TCP\n" } else { "" };
    let tls = config.tls.as_ref().map_or(String::new(), |_| "#!define TLS\n".into());
    include_str!("kamailio.cfg")
        .replacen("@DEFINES@", &format!("{digest}{nat_aware}{tcp}{tls}"), 1)
        .replace("@TLS_CONFIG@", &format!("{control}.tls"))
        .replace("@LISTEN@", &listen.to_string())
        .replace("@ADDRESS@", &listen.ip().to_string())
        .replace("@DOMAIN@", Kamailio::DOMAIN)
        .replace("@CONTROL@", control)
        .replace("@MAX_EXPIRES@", &config.max_expires_s.to_string())
        .replace("@PASSWORDS@", &passwords)
}

fn tls_configuration(tls: &KamailioTls) -> String {
    let (certificate, key, ca) = (tls.identity.certificate.display(), tls.identity.key.display(), tls.ca.display());
    let require = if tls.mutual { "yes" } else { "no" };
    format!(
        "[server:default]\nmethod = TLSv1.2+\nprivate_key = {key}\ncertificate = {certificate}\nca_list = {ca}\n\
         verify_certificate = {require}\nrequire_certificate = {require}\n\n\
         [client:default]\nmethod = TLSv1.2+\nprivate_key = {key}\ncertificate = {certificate}\nca_list = {ca}\n\
         verify_certificate = yes\nrequire_certificate = yes\n"
    )
}

/// Reads the indented `Key: value` lines of `ul.dump`.
fn parse_contacts(dump: &str) -> Vec<Contact> {
    let mut contacts: Vec<Contact> = Vec::new();
    let mut user = String::new();
    for line in dump.lines() {
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        let value = value.trim();
        match key {
            "AoR" => user = value.split('@').next().unwrap_or_default().to_owned(),
            "Address" => contacts.push(Contact { user: user.clone(), uri: value.to_owned(), expires_s: 0 }),
            "Expires" => {
                if let (Some(contact), Ok(expires)) = (contacts.last_mut(), value.parse()) {
                    contact.expires_s = expires;
                }
            }
            _ => {}
        }
    }
    contacts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_are_read_from_a_dump() {
        let dump = "{\n\tDomains: {\n\t\tDomain: {\n\t\t\tDomain: location\n\t\t\tAoRs: {\n\t\t\t\tInfo: {\n\t\t\t\t\tAoR: bob\n\
                    \t\t\t\t\tContacts: {\n\t\t\t\t\t\tContact: {\n\t\t\t\t\t\t\tAddress: sip:t0k@10.9.0.10:5060\n\
                    \t\t\t\t\t\t\tExpires: 59\n\t\t\t\t\t\t}\n\t\t\t\t\t}\n\t\t\t\t}\n\t\t\t}\n\t\t}\n\t}\n}\n";
        let expected = Contact { user: "bob".into(), uri: "sip:t0k@10.9.0.10:5060".into(), expires_s: 59 };
        assert_eq!(parse_contacts(dump), [expected]);
    }
}
