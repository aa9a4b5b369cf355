// What TensorBoard's own page tells: its runs, reloads, and whether it is dark.

const waiting = new Map();
const listeners = new Map();
let port = null;
let count = 0;

function connect() {
  if (port !== null || window.parent === window) return;
  const channel = new MessageChannel();
  port = channel.port1;
  port.onmessage = (event) => receive(JSON.parse(event.data));
  window.parent.postMessage('experimental.bootstrap', '*', [channel.port2]);
}

function receive(message) {
  if (message.isReply) {
    waiting.get(message.id)?.(message.error ? null : message.payload);
    waiting.delete(message.id);
    return;
  }
  listeners.get(message.type)?.(message.payload);
  const reply = {type: message.type, id: message.id, payload: null, error: null, isReply: true};
  port.postMessage(JSON.stringify(reply));
}

function ask(type) {
  connect();
  if (port === null) return Promise.resolve(null);
  const id = count++;
  port.postMessage(JSON.stringify({type, id, payload: null, error: null, isReply: false}));
  return new Promise((resolve) => waiting.set(id, resolve));
}

// Calls back with the names of TensorBoard's runs, now and when they change.
export function onRuns(callback) {
  let known = null;
  const tell = (names) => {
    const told = Array.isArray(names) && names.length ? names : null;
    if (JSON.stringify(told) === JSON.stringify(known)) return;
    known = told;
    callback(told);
  };
  listeners.set('experimental.RunsChanged', tell);
  ask('experimental.GetRuns').then(tell);
}

export function onReload(callback) {
  connect();
  listeners.set('experimental.DataReloaded', callback);
}

// TensorBoard does not pass on whether it is dark, but its body's class says so.
export function onDarkMode(callback) {
  let body = null;
  try {
    body = window.parent.document.body;
  } catch {
    // a page of another origin tells nothing
  }
  if (!body) {
    callback(false);
    return;
  }
  const tell = () => callback(body.classList.contains('dark-mode'));
  new MutationObserver(tell).observe(body, {attributes: true, attributeFilter: ['class']});
  tell();
}
