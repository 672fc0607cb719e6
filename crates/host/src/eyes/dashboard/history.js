// Rates from counters: what has changed between two answers, and the totals of the last two minutes.

/** How far back the charts go. */
export const WINDOW_MS = 120_000;

const NONE = { inFrames: 0, inBytes: 0, outFrames: 0, outBytes: 0, drops: 0, reasons: {} };

const sum = (counts) => Object.values(counts).reduce((total, value) => total + value, 0);

export class History {
  constructor() {
    this.forget();
  }

  forget() {
    this.ports = new Map();
    this.rates = new Map();
    this.workers = new Map();
    this.sleeps = new Map();
    this.at = null;
    this.pid = null;
    this.uptime = 0;
    /** Totals, oldest first: { at, span, frames, bytes, drops, reasons }. */
    this.samples = [];
    /** Reasons in the order in which they were first seen, with their totals since the server's start. */
    this.reasons = new Map();
  }

  /** Takes an answer that came at `at`, in milliseconds of any clock that only goes forward. */
  take(status, ports, at) {
    if (this.pid !== status.pid || status.uptime_s < this.uptime) {
      this.forget();
    }
    this.pid = status.pid;
    this.uptime = status.uptime_s;
    const span = this.at === null ? 0 : (at - this.at) / 1000;
    const total = { at, span, frames: 0, bytes: 0, drops: 0, reasons: {} };
    const before = this.ports;
    const lost = new Map();
    this.ports = new Map();
    this.rates = new Map();
    for (const port of ports) {
      const now = port.counters;
      this.ports.set(port.name, now);
      for (const [reason, value] of Object.entries(now.drops)) {
        lost.set(reason, (lost.get(reason) ?? 0) + value);
      }
      const then = before.get(port.name);
      if (!then || span <= 0) {
        continue;
      }
      // A port that was made anew counts from zero again.
      const rate = (after, first) => Math.max(0, after - first) / span;
      const reasons = {};
      for (const [reason, value] of Object.entries(now.drops)) {
        const speed = rate(value, then.drops[reason] ?? 0);
        if (speed > 0) {
          reasons[reason] = speed;
          total.reasons[reason] = (total.reasons[reason] ?? 0) + speed;
        }
      }
      const rates = {
        inFrames: rate(now.from_guest.frames, then.from_guest.frames),
        inBytes: rate(now.from_guest.bytes, then.from_guest.bytes),
        outFrames: rate(now.to_guest.frames, then.to_guest.frames),
        outBytes: rate(now.to_guest.bytes, then.to_guest.bytes),
        drops: sum(reasons),
        reasons,
      };
      this.rates.set(port.name, rates);
      total.frames += rates.outFrames;
      total.bytes += rates.outBytes;
      total.drops += rates.drops;
    }
    for (const reason of this.reasons.keys()) {
      this.reasons.set(reason, 0);
    }
    for (const [reason, value] of lost) {
      this.reasons.set(reason, value);
    }
    this.takeWorkers(status.workers, span);
    this.at = at;
    if (span > 0) {
      this.samples.push(total);
    }
    while (this.samples.length > 0 && this.samples[0].at < at - WINDOW_MS) {
      this.samples.shift();
    }
  }

  takeWorkers(workers, span) {
    const before = this.workers;
    this.workers = new Map(workers.map((worker) => [worker.name, worker.sleeps]));
    this.sleeps = new Map();
    for (const [name, sleeps] of this.workers) {
      if (span > 0 && before.has(name)) {
        this.sleeps.set(name, Math.max(0, sleeps - before.get(name)) / span);
      }
    }
  }

  /** Rates a second of a port. */
  of(name) {
    return this.rates.get(name) ?? NONE;
  }

  /** The newest totals. */
  get latest() {
    return this.samples.at(-1) ?? { frames: 0, bytes: 0, drops: 0, reasons: {} };
  }

  /** Frames dropped for `reason` within the window. */
  recent(reason) {
    return this.samples.reduce((total, sample) => total + (sample.reasons[reason] ?? 0) * sample.span, 0);
  }
}

export { sum };
