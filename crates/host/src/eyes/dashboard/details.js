// The panel of one port: what it is set to, what it does, and why.

import { bits, byId, bytes, count, fillFacts, fillRows, html, perSecond, REASONS, say, set, stateOf } from './page.js';

const SWITCHED = [
  ['enabled', 'enabled'], ['learning', 'learning'], ['flood', 'flood'], ['multicast-flood', 'multicast flood'],
  ['broadcast-flood', 'broadcast flood'], ['isolated', 'isolated'], ['hairpin', 'hairpin'], ['locked', 'locked'],
  ['guard', 'guard'], ['neighbour-suppression', 'neighbour suppression'],
];
const LIST_MAX = 64;

const list = (items) => {
  const shown = items.slice(0, LIST_MAX).join(', ');
  return items.length > LIST_MAX ? `${shown}, and ${items.length - LIST_MAX} more` : shown;
};

function section(title, ...content) {
  return html('section', {}, html('h3', {}, title), ...content);
}

function grid(...headings) {
  const cells = headings.map((heading) => {
    const number = heading.startsWith('>');
    return html('th', { scope: 'col', class: number ? 'number' : null }, number ? heading.slice(1) : heading);
  });
  return html('table', { class: 'grid small' }, html('thead', {}, html('tr', {}, ...cells)), html('tbody'));
}

export class Details {
  constructor() {
    this.panel = byId('details');
    this.name = null;
    this.facts = html('dl');
    this.settings = html('dl');
    this.switches = html('ul', { class: 'chips' });
    this.filter = html('dl');
    this.uplink = html('dl');
    this.addresses = grid('Address', 'Known from');
    this.drops = grid('Reason', '>Now/s', '>All');
    this.queues = grid('>#', 'Direction', '>Size', '>Frames', '>Bytes', '>Kicks', '>Calls', 'State');
    this.offered = html('ul', { class: 'chips' });
    this.sections = {
      drops: section('Drops', this.drops),
      addresses: section('Addresses of the guest', this.addresses),
      filter: section('Receive filter', this.filter),
      uplink: section('Uplink filter', this.uplink),
      settings: section('Settings', this.switches, this.settings),
      queues: section('Queues', html('div', { class: 'sideways' }, this.queues)),
      features: section('Features, ticked if acknowledged', this.offered),
    };
    byId('details-body').append(this.facts, ...Object.values(this.sections));
    byId('details-close').addEventListener('click', () => this.close());
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && !this.panel.hidden && !byId('login').open) {
        this.close();
      }
    });
  }

  /** Opens the panel for a port; it comes back to where the reader was when it is closed. */
  open(name, ports, history) {
    this.before = this.panel.hidden ? document.activeElement : this.before;
    this.name = name;
    this.panel.hidden = false;
    document.body.classList.add('with-details');
    byId('details-body').scrollTop = 0;
    this.show(ports, history);
    this.panel.focus({ preventScroll: true });
  }

  close() {
    this.name = null;
    this.panel.hidden = true;
    document.body.classList.remove('with-details');
    this.before?.focus?.({ preventScroll: true });
  }

  show(ports, history) {
    if (this.name === null) {
      return;
    }
    const port = ports.find((each) => each.name === this.name);
    const title = byId('details-title');
    if (!port) {
      say(title, `${this.name} is gone`);
      set(title, 'class', 'waiting');
      return;
    }
    const rates = history.of(port.name);
    const state = stateOf(port);
    say(title, port.name);
    set(title, 'class', state);
    const { counters } = port;
    const traffic = (side, frames, volume) =>
      `${bits(volume)}, ${perSecond(frames)} frames/s; ${count(side.frames)} frames, ${bytes(side.bytes)} in all`;
    fillFacts(this.facts, [
      ['State', port.state],
      ['Fault', port.fault],
      ['Shut', port.shut],
      ['Switch', port.switch],
      ['Kind', port.kind],
      ['Socket', port.socket && `${port.socket} (${port.socket_mode})`],
      ['Interface', port.interface],
      ['MAC', port.mac],
      ['MTU', port.mtu],
      ['From guest', traffic(counters.from_guest, rates.inFrames, rates.inBytes)],
      ['To guest', traffic(counters.to_guest, rates.outFrames, rates.outBytes)],
      ['Kicks, calls', `${count(counters.kicks)}, ${count(counters.calls)}`],
      ['FDB', `${count(port.fdb_learned)} learned, ${count(port.fdb_pinned)} pinned, ${count(port.fdb_evicted)} evicted`],
    ]);
    this.showDrops(counters.drops, rates.reasons);
    this.sections.addresses.hidden = port.addresses.length === 0;
    fillRows(this.addresses.tBodies[0], port.addresses.slice(0, LIST_MAX).map((address) => (
      { key: `${address.mac} ${address.origin}`, cells: [{ class: 'mono', text: address.mac }, address.origin] })));
    this.showFilter(port.receive_filter);
    this.showUplink(port.uplink);
    this.showSettings(port.settings, port.queue_pairs);
    this.showQueues(port.queues);
    this.showFeatures(port.features);
  }

  showDrops(drops, rates) {
    const rows = Object.entries(drops).filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
    this.sections.drops.hidden = rows.length === 0;
    fillRows(this.drops.tBodies[0], rows.map(([reason, value]) => ({
      key: reason,
      cells: [
        { class: 'reason', text: `${reason}\n${REASONS[reason] ?? ''}` },
        { class: rates[reason] ? 'number bad' : 'number', text: rates[reason] ? perSecond(rates[reason]) : '–' },
        { class: 'number', text: count(value) },
      ],
    })));
  }

  showFilter(filter) {
    this.sections.filter.hidden = !filter;
    if (filter) {
      fillFacts(this.filter, [
        ['Told by', filter.source],
        ['Own address', filter.mac],
        ['Unicast', list(filter.unicast)],
        ['Groups', list(filter.multicast)],
        ['Takes', filter.promiscuous ? 'everything (promiscuous)' : filter.all_multicast ? 'all groups' : 'these only'],
        ['Changes', count(filter.changes)],
        ['Refused', filter.refused],
      ]);
    }
  }

  showUplink(uplink) {
    this.sections.uplink.hidden = !uplink;
    if (uplink) {
      fillFacts(this.uplink, [
        ['Mode', uplink.mode],
        ['Because', uplink.reason],
        ['Unicast', list(uplink.unicast)],
        ['Groups', uplink.all_multicast ? 'all' : list(uplink.multicast)],
        ['Requests', count(uplink.operations)],
      ]);
    }
  }

  showSettings(settings, pairs) {
    while (this.switches.children.length < SWITCHED.length) {
      this.switches.append(html('li'));
    }
    SWITCHED.forEach(([key, words], index) => {
      const chip = this.switches.children[index];
      say(chip, `${settings[key] ? '✓' : '✕'} ${words}`);
      set(chip, 'class', settings[key] ? 'on' : 'off');
    });
    const rate = (value) => (value === null || value === undefined ? null : `${count(value)} frames/s`);
    fillFacts(this.settings, [
      ['Profile', settings.profile],
      ['Queue pairs', pairs],
      ['MAC limit', settings['mac-limit']],
      ['Unknown unicast', rate(settings['unknown-unicast-rate'])],
      ['Broadcast', rate(settings['broadcast-rate'])],
      ['Multicast', rate(settings['multicast-rate'])],
      ['Allowed MACs', list(settings.macs)],
      ['Allowed networks', list(settings.addresses)],
      ['Link-local', list(settings['link-local-forward'].map((digit) => `…:0${digit.toString(16)}`))],
      ['Native VLAN', settings['native-vlan']],
      ['VLANs', list(settings.vlans)],
      ['MAC change', settings['mac-change']],
    ]);
  }

  showQueues(queues) {
    this.sections.queues.hidden = queues.length === 0;
    fillRows(this.queues.tBodies[0], queues.map((queue) => ({
      key: queue.index,
      cells: [
        { class: 'number', text: queue.index },
        queue.direction,
        { class: 'number', text: `${queue.size} ${queue.layout}` },
        { class: 'number', text: count(queue.traffic.frames) },
        { class: 'number', text: bytes(queue.traffic.bytes) },
        { class: 'number', text: count(queue.kicks) },
        { class: 'number', text: count(queue.calls) },
        { class: queue.fault ? 'bad' : null, text: queue.fault ?? (queue.enabled ? 'enabled' : 'disabled') },
      ],
    })));
  }

  showFeatures({ offered, acknowledged }) {
    const taken = new Set(acknowledged);
    this.sections.features.hidden = offered.length === 0;
    while (this.offered.children.length > offered.length) {
      this.offered.lastElementChild.remove();
    }
    offered.forEach((feature, index) => {
      const chip = this.offered.children[index] ?? this.offered.appendChild(html('li'));
      const on = taken.has(feature);
      say(chip, `${on ? '✓ ' : ''}${feature.replace(/^VIRTIO_(NET_)?/, '')}`);
      set(chip, 'class', on ? 'on' : 'off');
      set(chip, 'title', feature);
    });
  }
}
