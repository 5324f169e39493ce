//! Points in time as records show them.

use serde::{Serialize, Serializer};
use std::{
    fmt,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// A point in time, UTC: milliseconds since 1970. Shown and serialised as in RFC 3339: `2026-01-31T23:59:59.999Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// Converts times of a monotonic clock to the time of day. One clock serves a whole call, so that the differences
/// between its times are true even if the time of day is set during it.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    monotonic: Instant,
    timestamp: Timestamp,
}

impl WallClock {
    /// A clock that knows that `monotonic` and `time_of_day` are the same moment.
    pub fn new(monotonic: Instant, time_of_day: SystemTime) -> Self {
        Self { monotonic, timestamp: Timestamp::from(time_of_day) }
    }

    /// The time of day at a moment, before or after the one the clock was made with.
    pub fn at(&self, moment: Instant) -> Timestamp {
        let after = moment.saturating_duration_since(self.monotonic).as_millis() as u64;
        let before = self.monotonic.saturating_duration_since(moment).as_millis() as u64;
        Timestamp(self.timestamp.0.saturating_add(after).saturating_sub(before))
    }
}

impl From<SystemTime> for Timestamp {
    /// A time before 1970 becomes 1970: the host's clock is not set.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.0 / 1000, self.0 % 1000);
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Year, month and day of a number of days since 1970 in the Gregorian calendar.
///
/// Counts from 1 March of year 0, so that the leap day is the last of its year and 400 years, 146,097 days, repeat;
/// from March on, the months of a year are 153 days in each five.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps_are_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_798_761_599_999, "2026-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
        }
    }

    #[test]
    fn dates_follow_each_other() {
        let mut expected = (1970, 1, 1);
        for days in 0..200 * 366 {
            assert_eq!(date(days), expected);
            let (year, month, day) = expected;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == length => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }

    #[test]
    fn a_wall_clock_tells_both_past_and_future() {
        let now = Instant::now() + Duration::from_secs(10);
        let clock = WallClock::new(now, UNIX_EPOCH + Duration::from_millis(5000));
        assert_eq!(clock.at(now), Timestamp(5000));
        assert_eq!(clock.at(now + Duration::from_millis(1234)), Timestamp(6234));
        assert_eq!(clock.at(now - Duration::from_millis(4000)), Timestamp(1000));
        assert_eq!(WallClock::new(now, UNIX_EPOCH - Duration::from_secs(1)).at(now), Timestamp(0));
    }
}
