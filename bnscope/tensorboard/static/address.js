// What is shown, kept in the address of TensorBoard's own page, so that a link shows the same.

const PREFIX = 'p.bnscope.';
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
  const state = {view: 'overview', without: []};
  for (const item of items()) {
    const cut = item.indexOf('=');
    const key = item.slice(0, cut).replace(PREFIX, '');
    if (cut < 0 || !item.startsWith(PREFIX)) continue;
    const value = decode(item.slice(cut + 1));
    if (KEYS.includes(key)) state[key] = value;
    if (key === 'without') state.without = value.split('\n');
  }
  return state;
}

export function write(state, replace) {
  const others = items().filter((item) => !item.startsWith(PREFIX));
  const ours = KEYS.filter((key) => state[key] !== undefined && state[key] !== '').map(
    (key) => `${PREFIX}${key}=${encodeURIComponent(state[key])}`,
  );
  if (state.without?.length) {
    ours.push(`${PREFIX}without=${encodeURIComponent(state.without.join('\n'))}`);
  }
  const hash = `#${[...others, ...ours].join('&')}`;
  if (hash === page.location.hash) return;
  page.history[replace ? 'replaceState' : 'pushState'](page.history.state, '', hash);
}

// Calls back when the address changes otherwise: Back, Forward, a link that was pasted.
export function onChange(callback) {
  let known = page.location.hash;
  const changed = () => {
    if (page.location.hash === known) return;
    known = page.location.hash;
    if (items().some((item) => item === 'bnscope')) callback(read());
  };
  page.addEventListener('popstate', changed);
  page.addEventListener('hashchange', changed);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
