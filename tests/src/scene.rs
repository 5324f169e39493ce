//! The usual scene: Latch between phones and a softswitch.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::baresip::{Baresip, BaresipConfig};
use crate::kamailio::{Kamailio, KamailioConfig};
use crate::latch::{Latch, LatchConfig};
use crate::peer::wait_until;
use crate::sipp::{Scenario, Sipp, SippConfig};
use crate::topology::{Lab, address};

/// Where terminals send their signalling.
pub const LATCH: SocketAddrV4 = SocketAddrV4::new(address::LATCH_ACCESS, 5060);

/// A lab in which Kamailio and Latch run.
#[derive(Debug)]
pub struct Scene<'lab> {
    /// The lab.
    pub lab: &'lab Lab,
    /// The softswitch.
    pub kamailio: Kamailio,
    /// Latch.
    pub latch: Latch,
    config: KamailioConfig,
}

impl<'lab> Scene<'lab> {
    /// Starts both and waits until they are ready.
    pub fn start(lab: &'lab Lab, kamailio: &KamailioConfig, latch: &LatchConfig) -> Result<Self> {
        let config = kamailio.clone();
        Ok(Self { lab, kamailio: Kamailio::start(lab, kamailio)?, latch: Latch::start(lab, latch)?, config })
    }

    /// A baresip at phone `number` (192.168.1.10) that has registered as `user` through Latch. `change` may alter its
    /// settings before the start.
    pub fn baresip(&self, number: usize, user: &str, change: impl FnOnce(&mut BaresipConfig)) -> Result<Baresip> {
        let mut config = BaresipConfig::new(user, address::PHONE, LATCH);
        config.password = Some(self.password(user));
        change(&mut config);
        let mut phone = Baresip::start(self.lab, user, self.lab.phone(number)?, &config)?;
        phone.wait_registered(Duration::from_secs(20))?;
        Ok(phone)
    }

    /// Settings of a SIPp at a phone with address `local`, port 5060, that sends everything to Latch.
    pub fn sipp(&self, scenario: Scenario, user: &str, local: Ipv4Addr) -> SippConfig {
        SippConfig::new(scenario, user, SocketAddrV4::new(local, 5060), LATCH).password(&self.password(user))
    }

    /// Registers `user` from phone `number` with SIPp, which is gone afterwards: start an answering one at the same port.
    pub fn register(&self, number: usize, user: &str) -> Result<()> {
        let config = self.sipp(Scenario::Register, user, address::PHONE);
        let name = format!("register-{user}");
        Sipp::run(self.lab, &name, self.lab.phone(number)?, &config, Duration::from_secs(20))?;
        self.kamailio.wait_for_contacts(user, 1, Duration::from_secs(10)).map(drop)
    }

    /// The end: waits for `count` CDRs, checks that no leg is open, stops Latch and checks that nothing of it is left.
    /// The records.
    pub fn finish(self, count: usize) -> Result<Vec<Value>> {
        self.latch.wait_for_cdrs(count, Duration::from_secs(20))?;
        wait_until("no leg is open", Duration::from_secs(20), || Ok(self.latch.open_legs()? == 0))?;
        // A call that Latch forgot would end, and be recorded, only when it stops.
        let records = self.latch.stop(self.lab)?;
        ensure!(records.len() == count, "{count} records were expected: {records:#?}");
        Ok(records)
    }

    /// A user's password.
    pub fn password(&self, user: &str) -> String {
        let known = self.config.users.iter().find(|known| known.name == user);
        known.map(|known| known.password.to_owned()).unwrap_or_default()
    }
}
