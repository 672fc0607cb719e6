// The table of disks, and their rates: what has changed between two answers.

import { byId, bytes, fillRows, perSecond, say } from './page.js';

/** Rows that are drawn. */
const DRAWN_MAX = 200;

const REQUESTS = ['reads', 'writes', 'flushes', 'discards', 'zeroes', 'others'];
const NONE = { requests: 0, read: 0, written: 0, errors: 0, meanUs: null };

const requests = (counters) => REQUESTS.reduce((total, kind) => total + counters[kind], 0);

/** Requests that were timed, and their times together. */
function timed(latency) {
  const each = [latency.read, latency.write, latency.flush];
  return each.reduce((total, times) => ({ count: total.count + times.count, us: total.us + times.sum_us }), { count: 0, us: 0 });
}

/** Rates a second between two answers. A disk that was made anew counts from zero again. */
function between(before, now, span) {
  const rate = (after, first) => Math.max(0, after - first) / span;
  const [first, last] = [timed(before.latency), timed(now.latency)];
  const count = last.count - first.count;
  return {
    requests: rate(requests(now.counters), requests(before.counters)),
    read: rate(now.counters.bytes_read, before.counters.bytes_read),
    written: rate(now.counters.bytes_written, before.counters.bytes_written),
    errors: rate(now.counters.errors, before.counters.errors),
    meanUs: count > 0 ? Math.max(0, last.us - first.us) / count : null,
  };
}

/** A time in microseconds with three digits: `85.3 µs`, `1.24 ms`. */
function time(us) {
  const [value, unit] = us >= 999_500 ? [us / 1e6, 's'] : us >= 999.5 ? [us / 1e3, 'ms'] : [us, 'µs'];
  return `${value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2)} ${unit}`;
}

/** A size in powers of 1024: `20 GiB`. */
function size(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(2)} ${units[unit]}`;
}

const imageOf = (disk) => disk.image.path ?? disk.image.kind;

/** What else there is to know of a disk in one line; what is wrong comes first. */
function remarks(disk, rates) {
  const words = [];
  if (disk.fault) {
    words.push(disk.fault);
  }
  if (disk.counters.stuck > 0) {
    words.push(`${disk.counters.stuck} stuck`);
  }
  if (rates.errors > 0) {
    words.push(`errors ${perSecond(rates.errors)}/s`);
  }
  words.push(disk.cache);
  if (disk.read_only) {
    words.push('read-only');
  }
  if (disk.serial) {
    words.push(disk.serial);
  }
  return words.join(' · ');
}

export class Disks {
  constructor() {
    this.section = byId('disks');
    this.filter = byId('disks-filter');
    this.body = byId('disks-table').tBodies[0];
    this.disks = [];
    this.rates = new Map();
    this.at = null;
    this.filter.addEventListener('input', () => this.draw());
  }

  /** Takes an answer that came at `at`, in milliseconds of any clock that only goes forward. */
  take(disks, at) {
    const before = new Map(this.disks.map((disk) => [disk.name, disk]));
    const span = this.at === null ? 0 : (at - this.at) / 1000;
    this.rates = new Map();
    for (const disk of disks) {
      const old = before.get(disk.name);
      if (old && span > 0) {
        this.rates.set(disk.name, between(old, disk, span));
      }
    }
    this.disks = disks;
    this.at = at;
    for (const part of [this.section, byId('disks-link')]) {
      part.hidden = disks.length === 0;
    }
    this.draw();
  }

  draw() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (disk) => {
      const text = `${disk.name} ${disk.kind} ${disk.state} ${imageOf(disk)} ${disk.serial}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const found = words.length > 0 ? this.disks.filter(fits) : this.disks;
    const shown = found.slice(0, DRAWN_MAX);
    const all = found.length === this.disks.length ? `${found.length}` : `${found.length} of ${this.disks.length}`;
    say(byId('disks-count'), found.length > shown.length ? `${all}; ${shown.length} shown, a filter finds the others` : all);
    fillRows(this.body, shown.map((disk) => this.row(disk)));
  }

  row(disk) {
    const rates = this.rates.get(disk.name) ?? NONE;
    const note = remarks(disk, rates);
    const { read, write, flush } = disk.latency;
    const slowest = Math.max(read.p99_us, write.p99_us, flush.p99_us);
    const takes = `${rates.meanUs === null ? '–' : time(rates.meanUs)}\n${slowest > 0 ? `99 %: ${time(slowest)}` : ''}`;
    const image = imageOf(disk);
    return {
      key: disk.name,
      cells: [
        { class: 'two', text: `${disk.name}\n${disk.kind} · ${image}`, title: `${disk.name}: ${image}` },
        { class: `state ${disk.state}`, text: disk.state },
        { class: 'number', text: size(disk.capacity) },
        { class: 'number', text: perSecond(rates.requests) },
        { class: 'number', text: `${bytes(Math.round(rates.read))}/s` },
        { class: 'number', text: `${bytes(Math.round(rates.written))}/s` },
        { class: disk.counters.stuck > 0 ? 'number bad' : 'number', text: disk.counters.in_flight },
        { class: 'number', text: takes },
        { class: 'remarks', text: note, title: note },
      ],
    };
  }
}
