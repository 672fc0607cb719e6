// The topology: each switch as a bar, guests above it, the host's interfaces below, and links that move as frames do.
//
// Only so many ports fit on a switch's bar. The rest, and there may be a thousand, is a field of small squares behind it.
// Ports that say something (a fault, a drop, much traffic) come onto the bar first; the choice is made anew only now and then,
// so that a picture someone looks at does not jump.

import { bits, cut, html, perSecond, say, set, stateOf, svg } from './page.js';

const CARD = { width: 124, height: 50, gap: 12 };
const MARGIN = 16;
const LINK = 58;
const BAR = 46;
const SQUARE = 9;
const PITCH = 12;
const CHOICE_MS = 15_000;

const isUplink = (port) => port.kind !== 'vhost-user' && port.kind !== 'vfio-user';

/** How much a port has to say; the bar takes the highest. */
function interest(port, rates) {
  const state = { faulted: 4e12, shut: 3e12 }[stateOf(port)] ?? (port.state === 'running' ? 1e9 : 0);
  return state + (isUplink(port) ? 1e13 : 0) + (rates.drops > 0 ? 1e12 : 0) + rates.inBytes + rates.outBytes;
}

/** 0 for silence, then 1 to 5 by the power of ten of the rate. */
function level(bytes) {
  return bytes <= 0 ? 0 : Math.min(5, Math.max(1, Math.floor(Math.log10(bytes * 8)) - 2));
}

export class Topology {
  /** `choose(name)` is called when someone wants to know more about a port. */
  constructor(place, choose) {
    this.place = place;
    this.choose = choose;
    this.switches = new Map();
    new ResizeObserver(() => this.redraw()).observe(place);
  }

  redraw() {
    if (this.last) {
      this.show(...this.last);
    }
  }

  show(status, ports, history, at) {
    this.last = [status, ports, history, at];
    const groups = new Map(status.switches.map((each) => [each.name, []]));
    for (const port of ports) {
      groups.get(port.switch)?.push(port);
    }
    for (const [name, drawn] of this.switches) {
      if (!groups.has(name)) {
        drawn.figure.remove();
        this.switches.delete(name);
      }
    }
    for (const empty of this.place.querySelectorAll(':scope > .empty')) {
      empty.remove();
    }
    const many = groups.size > 1;
    set(this.place, 'data-many', many ? 'yes' : null);
    for (const each of status.switches) {
      let drawn = this.switches.get(each.name);
      if (!drawn) {
        drawn = new Drawn(each.name, this.choose);
        this.switches.set(each.name, drawn);
        this.place.append(drawn.figure);
      }
      drawn.show(each, groups.get(each.name), history, at);
    }
    if (groups.size === 0) {
      this.place.append(html('p', { class: 'empty' }, 'There is no switch.'));
    }
  }
}

/** The picture of one switch. */
class Drawn {
  constructor(name, choose) {
    this.choose = choose;
    this.cards = new Map();
    this.squares = new Map();
    this.chosen = { names: new Set(), at: -Infinity, key: '' };
    this.links = svg('g');
    this.bar = svg('g', { class: 'bar' });
    this.barBox = svg('rect', { rx: 10, height: BAR });
    this.barName = svg('text', { class: 'name' });
    this.barFacts = svg('text', { class: 'facts', 'text-anchor': 'end' });
    this.bar.append(this.barBox, this.barName, this.barFacts);
    this.field = svg('g', { class: 'field' });
    this.fieldName = svg('text', { class: 'facts' });
    this.nodes = svg('g');
    this.picture = svg('svg', { role: 'group' }, this.links, this.bar, this.fieldName, this.field, this.nodes);
    this.figure = html('figure', {}, this.picture);
    this.field.addEventListener('click', (event) => {
      const name = event.target.portName;
      if (name !== undefined) {
        this.choose(name);
      }
    });
    set(this.picture, 'aria-label', `switch ${name}`);
  }

  show(each, ports, history, at) {
    const width = Math.max(300, this.figure.clientWidth);
    const room = Math.max(2, Math.floor((width - 2 * MARGIN + CARD.gap) / (CARD.width + CARD.gap)));
    const names = this.pick(ports, room, history, at);
    const above = ports.filter((port) => names.has(port.name) && !isUplink(port));
    const below = ports.filter((port) => names.has(port.name) && isUplink(port));
    // More of one sort than fit in their row use what the other row leaves free.
    while (above.length > room) {
      below.unshift(above.pop());
    }
    while (below.length > room) {
      above.push(below.pop());
    }
    const rest = ports.filter((port) => !names.has(port.name));
    const top = MARGIN + (above.length > 0 ? CARD.height + LINK : 0);
    let bottom = top + BAR;
    this.drawBar(each, width, top);
    const kept = new Set();
    this.drawRow(above, width, MARGIN, top, history, kept);
    if (below.length > 0) {
      this.drawRow(below, width, bottom + LINK, bottom, history, kept);
      bottom += LINK + CARD.height;
    }
    for (const [name, card] of this.cards) {
      if (!kept.has(name)) {
        card.group.remove();
        card.link.remove();
        this.cards.delete(name);
      }
    }
    bottom = this.drawField(rest, width, bottom + MARGIN, history);
    const height = bottom + MARGIN;
    set(this.picture, 'viewBox', `0 0 ${width} ${height}`);
    set(this.picture, 'width', width);
    set(this.picture, 'height', height);
  }

  /** The names of the ports that get a card. */
  pick(ports, room, history, at) {
    const most = 2 * room;
    if (ports.length <= most) {
      return new Set(ports.map((port) => port.name));
    }
    const key = `${room} ${ports.map((port) => `${port.name} ${stateOf(port)}`).join('\n')}`;
    if (key !== this.chosen.key || at - this.chosen.at > CHOICE_MS) {
      const weighed = ports.map((port) => [interest(port, history.of(port.name)), port.name]);
      weighed.sort((a, b) => b[0] - a[0]);
      this.chosen = { key, at, names: new Set(weighed.slice(0, most).map(([, name]) => name)) };
    }
    return this.chosen.names;
  }

  drawBar(each, width, y) {
    set(this.barBox, 'x', MARGIN);
    set(this.barBox, 'y', y);
    set(this.barBox, 'width', width - 2 * MARGIN);
    set(this.barName, 'x', MARGIN + 16);
    set(this.barFacts, 'x', width - MARGIN - 16);
    for (const text of [this.barName, this.barFacts]) {
      set(text, 'y', y + BAR / 2 + 5);
    }
    say(this.barName, cut(each.name, 28));
    const full = each.fdb_entries_max > 0 && each.fdb_entries / each.fdb_entries_max > 0.9;
    set(this.bar, 'class', full ? 'bar full' : 'bar');
    const vlan = each.vlan === 'none' ? '' : ` · VLANs ${each.vlan}`;
    const wide = `${each.ports} ports · ${each.fdb_entries} of ${each.fdb_entries_max} addresses${vlan}`;
    say(this.barFacts, width > 560 ? `${wide}${each.snooping ? ' · snooping' : ''}` : `${each.ports} ports`);
  }

  drawRow(ports, width, y, edge, history, kept) {
    const span = (width - 2 * MARGIN) / Math.max(1, ports.length);
    ports.forEach((port, index) => {
      kept.add(port.name);
      let card = this.cards.get(port.name);
      if (!card) {
        card = new Card(port.name, this.choose);
        this.cards.set(port.name, card);
        this.links.append(card.link);
        this.nodes.append(card.group);
      }
      card.show(port, history.of(port.name), MARGIN + span * (index + 0.5), y, edge);
    });
  }

  drawField(ports, width, y, history) {
    const across = Math.max(1, Math.floor((width - 2 * MARGIN) / PITCH));
    const kept = new Set(ports.map((port) => port.name));
    for (const [name, square] of this.squares) {
      if (!kept.has(name)) {
        square.remove();
        this.squares.delete(name);
      }
    }
    say(this.fieldName, ports.length > 0 ? `and ${ports.length} more, brighter with traffic` : '');
    set(this.fieldName, 'x', MARGIN);
    set(this.fieldName, 'y', y + 12);
    if (ports.length === 0) {
      return y - MARGIN;
    }
    ports.forEach((port, index) => {
      let square = this.squares.get(port.name);
      if (!square) {
        square = svg('rect', { width: SQUARE, height: SQUARE, rx: 2 }, svg('title'));
        square.portName = port.name;
        say(square.firstElementChild, port.name);
        this.squares.set(port.name, square);
        this.field.append(square);
      }
      const rates = history.of(port.name);
      set(square, 'x', MARGIN + (index % across) * PITCH);
      set(square, 'y', y + 22 + Math.floor(index / across) * PITCH);
      set(square, 'class', `${stateOf(port)} heat${level(rates.inBytes + rates.outBytes)}${rates.drops > 0 ? ' dropping' : ''}`);
    });
    return y + 22 + Math.ceil(ports.length / across) * PITCH;
  }
}

/** A port on the bar, and its link. */
class Card {
  constructor(name, choose) {
    this.line = svg('path', { class: 'line' });
    this.incoming = svg('path', { class: 'flow in' });
    this.outgoing = svg('path', { class: 'flow out' });
    this.link = svg('g', {}, this.line, this.incoming, this.outgoing);
    this.box = svg('rect', { class: 'box', width: CARD.width, height: CARD.height, rx: 9 });
    this.edge = svg('rect', { class: 'edge', width: 4, height: CARD.height - 16, x: 7, y: 8, rx: 2 });
    this.name = svg('text', { class: 'name', x: 18, y: 20 });
    this.rate = svg('text', { class: 'rate', x: 18, y: 38 });
    this.badge = svg('text', { class: 'badge', x: CARD.width - 8, y: 20, 'text-anchor': 'end' });
    this.title = svg('title');
    this.group = svg('g', { role: 'button', tabindex: 0 }, this.title, this.box, this.edge, this.name, this.rate, this.badge);
    this.group.addEventListener('click', () => choose(name));
    this.group.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        choose(name);
      }
    });
  }

  show(port, rates, x, y, edge) {
    const state = stateOf(port);
    set(this.group, 'transform', `translate(${Math.round(x - CARD.width / 2)} ${y})`);
    set(this.group, 'class', `card ${state}${isUplink(port) ? ' uplink' : ''}`);
    const dropping = rates.drops > 0;
    say(this.badge, dropping ? `✕ ${perSecond(rates.drops)}/s` : port.uplink?.mode === 'promiscuous' ? 'promisc' : '');
    set(this.badge, 'class', dropping ? 'badge dropping' : 'badge');
    say(this.name, cut(port.name, this.badge.textContent === '' ? 14 : 8));
    const quiet = port.shut ? `shut: ${port.shut}` : state;
    const speed = `↑ ${bits(rates.inBytes)}  ↓ ${bits(rates.outBytes)}`.replaceAll('b/s', '');
    say(this.rate, state === 'running' ? speed : quiet);
    const words = `${port.name}, ${port.kind}, ${quiet}, from guest ${bits(rates.inBytes)}, to guest ${bits(rates.outBytes)}`;
    const drops = dropping ? `, ${perSecond(rates.drops)} drops a second` : '';
    say(this.title, words + drops);
    set(this.group, 'aria-label', words + drops);
    set(this.link, 'class', `link ${state}`);
    // The card's edge that faces the bar, and from there towards the bar.
    const start = y < edge ? y + CARD.height : y;
    const middle = Math.round(x);
    set(this.line, 'd', `M${middle} ${start}V${edge}`);
    this.flow(this.incoming, rates.inBytes, `M${middle - 4} ${start}V${edge}`);
    this.flow(this.outgoing, rates.outBytes, `M${middle + 4} ${edge}V${start}`);
  }

  flow(path, bytes, way) {
    set(path, 'd', way);
    const name = path === this.incoming ? 'in' : 'out';
    set(path, 'class', `flow ${name} level${level(bytes)}`);
  }
}
