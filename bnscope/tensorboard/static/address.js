// What is shown, kept in the address of TensorBoard's own page, so that a link shows the same.

const PREFIX = 'p.bnscope.';
const SELECTION = 'runSelectionState';
const KEYS = ['view', 'run', 'layer', 'statistic', 'column', 'variable', 'sort', 'channel', 'step'];
const page = outer();

function outer() {
  try {
    void window.parent.location.hash; // refused if the page is of another origin
    return window.parent;
  } catch {
    return window;
  }
}

function items() {
  return page.location.hash.replace(/^#/, '').split('&').filter(Boolean);
}

export function read() {
  const state = {view: 'overview'};
  for (const [key, value] of pairs()) {
    const ours = key.replace(PREFIX, '');
    if (key.startsWith(PREFIX) && KEYS.includes(ours)) state[ours] = value;
  }
  return state;
}

export function write(state, replace = false) {
  const others = items().filter((item) => !item.startsWith(PREFIX));
  const ours = KEYS.filter((key) => state[key] !== undefined && state[key] !== '').map(
    (key) => `${PREFIX}${key}=${encodeURIComponent(state[key])}`,
  );
  put([...others, ...ours], replace);
}

// Whether a run is selected in the sidebars of TensorBoard: a choice that its tabs keep in the
// address, and the filter of the time series.
export function isSelected(name) {
  return selection()[name] !== false && !isFiltered(name);
}

// Whether the filter of the time series, a regular expression, leaves a run out; one that is none
// leaves out all, as there.
export function isFiltered(name) {
  const filter = new URLSearchParams(page.location.search).get('runFilter');
  try {
    return Boolean(filter) && !new RegExp(filter, 'i').test(name);
  } catch {
    return true;
  }
}

// Selects a run or leaves it out, for the other tabs too.
export function select(name, selected) {
  // Their decoder takes one byte a letter.
  const text = JSON.stringify({...selection(), [name]: selected}).replace(
    /[\u0080-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  const others = items().filter((item) => !item.startsWith(`${SELECTION}=`));
  put([...others, `${SELECTION}=${encodeURIComponent(btoa(text))}`], false);
}

function selection() {
  const found = pairs().find(([key]) => key === SELECTION);
  try {
    return JSON.parse(atob(found[1])) ?? {};
  } catch {
    return {};
  }
}

function pairs() {
  return items()
    .filter((item) => item.includes('='))
    .map((item) => {
      const cut = item.indexOf('=');
      return [item.slice(0, cut), decode(item.slice(cut + 1))];
    });
}

function put(parts, replace) {
  const hash = `#${parts.join('&')}`;
  if (hash === page.location.hash) return;
  page.history[replace ? 'replaceState' : 'pushState'](page.history.state, '', hash);
  known = page.location.href;
}

let known = page.location.href;

// Calls back when the address changes otherwise: Back, Forward, a link that was pasted, or a
// selection of runs in another tab, from which this one is shown again.
export function onChange(callback) {
  const changed = () => {
    const here = page === window || items().includes('bnscope');
    if (page.location.href === known || !here || !document.documentElement.clientWidth) return;
    known = page.location.href;
    callback(read());
  };
  page.addEventListener('popstate', changed);
  page.addEventListener('hashchange', changed);
  new ResizeObserver(changed).observe(document.documentElement);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
