// What TensorBoard's own page tells: its runs, reloads, and whether it is dark.

const listeners = new Map();
let port = null;

function connect() {
  if (port !== null || window.parent === window) return;
  const channel = new MessageChannel();
  port = channel.port1;
  port.onmessage = (event) => receive(JSON.parse(event.data));
  window.parent.postMessage('experimental.bootstrap', '*', [channel.port2]);
}

function receive(message) {
  if (message.isReply) return;
  listeners.get(message.type)?.(message.payload);
  const reply = {type: message.type, id: message.id, payload: null, error: null, isReply: true};
  port.postMessage(JSON.stringify(reply));
}

// Calls back when TensorBoard has read its log directory anew.
export function onReload(callback) {
  connect();
  let waits = null;
  const soon = () => {
    clearTimeout(waits); // both messages come at once
    waits = setTimeout(callback, 100);
  };
  listeners.set('experimental.RunsChanged', soon);
  listeners.set('experimental.DataReloaded', soon);
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
