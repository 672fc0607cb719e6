// Making and changing elements, and numbers for people. Text only ever becomes text: nothing here parses markup.

const SVG = 'http://www.w3.org/2000/svg';

export const byId = (id) => document.getElementById(id);

/** An HTML element. `children` are elements or text. */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    set(element, name, value);
  }
  element.append(...children);
  return element;
}

/** Sets an attribute if it is another value; null removes it. */
export function set(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) {
      element.removeAttribute(name);
    }
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

/** Sets the text if it is another one: what does not change costs no layout and keeps a selection. */
export function say(element, text) {
  const words = String(text ?? '');
  if (element.textContent !== words) {
    element.textContent = words;
  }
}

/**
 * Makes the rows of a table body those of `rows`. A row is { key, cells, ...attributes }; a cell is text or
 * { text, class, title }. Rows that stay keep their elements, and with them focus and selection.
 */
export function fillRows(body, rows) {
  const known = (body.known ??= new Map());
  const wanted = new Set(rows.map((row) => row.key));
  for (const [key, element] of known) {
    if (!wanted.has(key)) {
      element.remove();
      known.delete(key);
    }
  }
  let before = null;
  for (const { key, cells, ...attributes } of rows) {
    let element = known.get(key);
    if (!element) {
      element = html('tr');
      known.set(key, element);
    }
    const place = before ? before.nextElementSibling : body.firstElementChild;
    if (place !== element) {
      body.insertBefore(element, place);
    }
    before = element;
    for (const [name, value] of Object.entries(attributes)) {
      set(element, name, value);
    }
    fillCells(element, cells);
  }
}

function fillCells(row, cells) {
  while (row.cells.length > cells.length) {
    row.deleteCell(-1);
  }
  cells.forEach((cell, index) => {
    const element = row.cells[index] ?? row.appendChild(html('td'));
    const { text, title, class: name } = typeof cell === 'object' && cell !== null ? cell : { text: cell };
    say(element, text);
    set(element, 'class', name);
    set(element, 'title', title);
  });
}

/** Makes a description list that of `facts`, pairs of a name and a text; facts without text are left out. */
export function fillFacts(list, facts) {
  const told = facts.filter(([, text]) => text !== null && text !== undefined && text !== '');
  while (list.children.length > told.length * 2) {
    list.lastElementChild.remove();
  }
  told.forEach(([name, text], index) => {
    if (list.children.length <= index * 2) {
      list.append(html('dt'), html('dd'));
    }
    say(list.children[index * 2], name);
    say(list.children[index * 2 + 1], text);
  });
}

/** A number with a decimal prefix and three digits: `1.24 G`. */
function scaled(value, step = 1000) {
  const prefixes = ['', ' k', ' M', ' G', ' T'];
  let prefix = 0;
  while (value >= step * 0.9995 && prefix < prefixes.length - 1) {
    value /= step;
    prefix += 1;
  }
  const digits = value >= 100 || (prefix === 0 && value >= 10) || value === 0 ? 0 : value >= 10 ? 1 : 2;
  const text = prefix === 0 && Number.isInteger(value) ? String(value) : value.toFixed(digits);
  return text + prefixes[prefix];
}

const COUNT = new Intl.NumberFormat('en-GB');
export const count = (value) => COUNT.format(value);
export const short = (value) => scaled(value);
export const perSecond = (value) => (value > 0 && value < 1 ? '<1' : scaled(Math.round(value)));

/** Bytes a second as bits a second: `1.24 Gb/s`. */
export function bits(bytes) {
  const text = scaled(Math.round(bytes * 8));
  return text.includes(' ') ? `${text}b/s` : `${text} b/s`;
}

export function bytes(value) {
  const text = scaled(value);
  return text.includes(' ') ? `${text}B` : `${text} B`;
}

/** Seconds as `3d 4h`, `2h 5m`, `7m 1s` or `9s`. */
export function duration(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days > 0) {
    return `${days}d ${hours}h`;
  }
  if (hours > 0) {
    return `${hours}h ${minutes}m`;
  }
  return minutes > 0 ? `${minutes}m ${Math.floor(seconds % 60)}s` : `${Math.floor(seconds)}s`;
}

/** The text, cut to `length` characters. */
export function cut(text, length) {
  const characters = Array.from(text);
  return characters.length <= length ? text : `${characters.slice(0, length - 1).join('')}…`;
}

/** What a drop reason means. */
export const REASONS = {
  'invalid-source': 'the source is a group address or zero',
  'source-taken': 'a static entry pins the source to another port',
  'link-local': 'the destination is kept to one link, and the port does not forward it',
  'same-port': 'the destination is behind the port that it came from',
  'no-receiver': 'no other port of the switch takes the frame',
  'ingress-removed': 'the port has left the switch',
  'port-shut': 'a port on the way is disabled or shut by its guard',
  guard: 'a spanning-tree frame on a guarded port, which is shut now',
  vlan: 'the port is not in the VLAN, or takes no untagged frames',
  'source-mac': 'the port may not send from this MAC address',
  'multicast-router': 'a multicast query from a port that may not route',
  'source-address': 'the port may not send from this network address',
  locked: 'the port is locked, and the source is not known behind it',
  'mac-limit': 'the port has as many addresses as it may have',
  'unicast-rate': 'too many frames to unknown stations',
  'broadcast-rate': 'too many broadcasts',
  'multicast-rate': 'too many frames to groups',
  isolated: 'both ports are isolated',
  'vlan-egress': 'the port it would leave by is not in the VLAN',
  runt: 'shorter than an Ethernet header',
  'sender-disabled': 'the sender has this queue disabled',
  oversize: 'longer than the sender may send',
  'bad-header': 'the virtio-net header breaks the specification',
  'bad-offload': 'an offload that does not fit the frame',
  'receiver-full': 'the receiver has no buffer for it now',
  'receiver-down': 'the receiver is not connected or not started',
  'receiver-too-small': 'it does not fit the receiver’s MTU or buffers',
  'receiver-filter': 'the receiver’s own filter does not want it',
  'receiver-fault': 'the receiver’s queue or memory broke',
  'host-error': 'the host could not write it to its device',
};

/** The state of a port in one word: its state, or `shut`. */
export const stateOf = (port) => (port.shut && port.state !== 'faulted' ? 'shut' : port.state);
