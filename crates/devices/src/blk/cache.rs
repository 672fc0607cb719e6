//! The write cache: when a write is done (virtio 1.3 §5.2.5.2 and §5.2.6.2).
//!
//! | acknowledged | a write is done when |
//! |---|---|
//! | neither FLUSH nor CONFIG_WCE | it would survive a loss of power (case 1 of §5.2.6.2) |
//! | FLUSH alone | the operator's mode says so: in write-back mode the driver flushes |
//! | CONFIG_WCE | the mode says so that the driver may change while it runs (case 2); first the operator's, without FLUSH write-through |
//!
//! A driver that could not flush is never given a volatile write: nobody could make it stable any more. That is more than the
//! specification asks for where CONFIG_WCE without FLUSH was acknowledged and `writeback` set all the same.

use super::features::{Acknowledged, Features};

/// When a write is reported as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheMode {
    /// When it would survive a loss of power.
    WriteThrough,
    /// At once; a flush makes it stable.
    #[default]
    WriteBack,
}

/// The features that the cache depends on. Others may change while the device runs (vhost's LOG_ALL).
const RELEVANT: Features = Features::FLUSH.union(Features::CONFIG_WCE).union(Features::VERSION_1);

/// The mode of one device's write cache: what the operator set, what the driver negotiated, and what it wrote since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteCache {
    operator: CacheMode,
    /// What the driver chose of [`RELEVANT`]; `None` from a reset until it does.
    chosen: Option<Features>,
    /// The field `writeback`.
    mode: CacheMode,
}

impl WriteCache {
    /// The cache of a device after reset, in the mode that the operator set.
    pub const fn new(operator: CacheMode) -> Self {
        Self { operator, chosen: None, mode: operator }
    }

    /// The device was reset: the operator's mode again.
    pub fn reset(&mut self) {
        *self = Self::new(self.operator);
    }

    /// The driver's choice of features is final: FEATURES_OK, or for a legacy driver DRIVER_OK (virtio 1.3 §5.2.5.2 and §5.2.5.3).
    /// The same choice again, by a front-end that starts the device anew, changes nothing.
    pub fn acknowledge(&mut self, acknowledged: Acknowledged) {
        let chosen = acknowledged.features() & RELEVANT;
        if self.chosen.replace(chosen) == Some(chosen) {
            return;
        }
        let has = |feature| chosen.contains(feature);
        // A legacy driver that acknowledged CONFIG_WCE finds the mode as it left it, without FLUSH, too.
        let keeps = has(Features::CONFIG_WCE) && !has(Features::VERSION_1);
        if !has(Features::FLUSH) && !keeps {
            self.mode = CacheMode::WriteThrough;
        }
    }

    /// The driver wrote `value` to `writeback` (see [`config::write`](super::config::write)). True: the mode changed, and requests from now
    /// on follow it. What was written before and is volatile stays so.
    ///
    /// Nothing happens for values but 0 and 1, and for a driver that chose its features without CONFIG_WCE. Before it chose, a legacy
    /// driver may write.
    pub fn write(&mut self, value: u8) -> bool {
        let is_allowed = self.chosen.is_none_or(|chosen| chosen.contains(Features::CONFIG_WCE));
        let mode = match value {
            0 => CacheMode::WriteThrough,
            1 => CacheMode::WriteBack,
            _ => return false,
        };
        let changes = is_allowed && mode != self.mode;
        if changes {
            self.mode = mode;
        }
        changes
    }

    /// The field `writeback`.
    pub fn writeback(&self) -> u8 {
        match self.mode {
            CacheMode::WriteThrough => 0,
            CacheMode::WriteBack => 1,
        }
    }

    /// Whether a write that begins now is done only when it would survive a loss of power.
    pub fn through(&self) -> bool {
        let can_flush = self.chosen.is_some_and(|chosen| chosen.contains(Features::FLUSH));
        !(can_flush && self.mode == CacheMode::WriteBack)
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::Offered;
    use super::*;
    use CacheMode::{WriteBack, WriteThrough};

    const MODERN: Features = Features::VERSION_1;

    fn acknowledged(features: Features) -> Acknowledged {
        let all = Features::all().difference(Features::ZONED);
        Acknowledged::new(Offered::new(all), features.bits()).unwrap()
    }

    fn cache(operator: CacheMode, features: Features) -> WriteCache {
        let mut cache = WriteCache::new(operator);
        cache.acknowledge(acknowledged(features));
        cache
    }

    #[test]
    fn each_row_of_the_table() {
        let rows = [
            // Operator, features, writeback, through.
            (WriteBack, Features::empty(), 0, true),
            (WriteBack, Features::FLUSH, 1, false),
            (WriteBack, Features::CONFIG_WCE, 0, true),
            (WriteBack, Features::CONFIG_WCE | Features::FLUSH, 1, false),
            (WriteThrough, Features::empty(), 0, true),
            (WriteThrough, Features::FLUSH, 0, true),
            (WriteThrough, Features::CONFIG_WCE, 0, true),
            (WriteThrough, Features::CONFIG_WCE | Features::FLUSH, 0, true),
        ];
        for (operator, features, writeback, through) in rows {
            let cache = cache(operator, MODERN | features);
            assert_eq!(
                (cache.writeback(), cache.through()),
                (writeback, through),
                "{operator:?} {features:?}"
            );
        }
    }

    #[test]
    fn a_driver_switches_while_it_runs_if_it_may() {
        let mut both = cache(WriteBack, MODERN | Features::CONFIG_WCE | Features::FLUSH);
        assert!(both.write(0) && both.through() && both.writeback() == 0);
        assert!(!both.write(0) && !both.write(2) && !both.write(0xFF) && both.through());
        assert!(both.write(1) && !both.through());
        for features in [Features::FLUSH, Features::empty()] {
            let mut fixed = cache(WriteBack, MODERN | features);
            let before = fixed;
            assert!(!fixed.write(0) && !fixed.write(1));
            assert_eq!(fixed, before);
        }
    }

    #[test]
    fn who_cannot_flush_is_given_no_volatile_write() {
        let mut cache = cache(WriteBack, MODERN | Features::CONFIG_WCE);
        assert!(cache.write(1));
        assert_eq!((cache.writeback(), cache.through()), (1, true));
        // Before any feature was chosen, neither.
        assert!(WriteCache::new(WriteBack).through());
    }

    #[test]
    fn a_reset_restores_the_operator_s_mode() {
        for operator in [WriteBack, WriteThrough] {
            let features = MODERN | Features::CONFIG_WCE | Features::FLUSH;
            let mut other = cache(operator, features);
            assert!(other.write(1 - other.writeback()));
            other.reset();
            assert_eq!(other, WriteCache::new(operator));
            other.acknowledge(acknowledged(features));
            assert_eq!(other, cache(operator, features));
            // A driver without the features leaves nothing behind either.
            let mut plain = cache(operator, MODERN);
            plain.reset();
            plain.acknowledge(acknowledged(features));
            assert_eq!(plain, cache(operator, features));
        }
    }

    #[test]
    fn the_same_choice_again_keeps_what_the_driver_wrote() {
        let features = MODERN | Features::CONFIG_WCE | Features::FLUSH;
        let mut cache = cache(WriteBack, features);
        assert!(cache.write(0));
        cache.acknowledge(acknowledged(features | Features::LOG_ALL));
        assert_eq!((cache.writeback(), cache.through()), (0, true));
    }

    #[test]
    fn a_legacy_driver_may_write_before_it_chose() {
        let mut cache = WriteCache::new(WriteBack);
        assert!(cache.write(0) && cache.write(1));
        // CONFIG_WCE without FLUSH leaves the field alone; without either it says what holds.
        cache.acknowledge(acknowledged(Features::CONFIG_WCE));
        assert_eq!((cache.writeback(), cache.through()), (1, true));
        let mut cache = WriteCache::new(WriteBack);
        cache.acknowledge(acknowledged(Features::empty()));
        assert_eq!((cache.writeback(), cache.through()), (0, true));
        let mut cache = WriteCache::new(WriteBack);
        assert!(cache.write(0));
        cache.acknowledge(acknowledged(Features::FLUSH | Features::CONFIG_WCE));
        assert_eq!((cache.writeback(), cache.through()), (0, true));
    }
}
