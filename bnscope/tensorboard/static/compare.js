// The same layer in several runs.

import {choice, element} from './dom.js';
import {Figure} from './figure.js';
import {get} from './server.js';

export async function compare(app, page) {
  const runs = app.compared;
  if (!runs.length) {
    page.append(element('p', {class: 'empty'}, 'Choose at least one run to compare.'));
    return;
  }
  const models = await ask(runs);
  const failed = models.filter((known) => known.error);
  page.append(
    ...failed.map(({run, error}) =>
      element('p', {class: 'note', role: 'alert'}, `${run.label}: ${error.message} ${error.hint}`),
    ),
  );
  const refresh = async () => {
    if (JSON.stringify(await ask(runs)) !== JSON.stringify(models)) await app.show();
  };
  const readable = models.filter((known) => !known.error);
  if (!readable.length) return refresh;
  const runsOf = new Map(); // in how many runs each layer is
  for (const each of readable.flatMap((known) => known.layers)) {
    if (each.watched) runsOf.set(each.layer, (runsOf.get(each.layer) ?? 0) + 1);
  }
  const most = Math.max(0, ...runsOf.values());
  const layers = [...runsOf].map(([name, count]) => ({
    name,
    title: count < readable.length ? `${name} (${count} of ${readable.length} runs)` : name,
  }));
  const shared = layers.find(({name}) => runsOf.get(name) === most)?.name;
  const chosen = runsOf.has(app.state.layer) ? app.state.layer : shared;
  page.append(
    element(
      'div',
      {class: 'controls'},
      choice('Layer', layers, chosen, (name) =>
        app.go({layer: name, channel: '', step: ''}),
      ),
      element(
        'span',
        {class: 'note'},
        runs.length < 2 ? 'One run is shown; write a second one to compare.' : '',
        app.leftOut,
      ),
    ),
    new Figure(`${chosen} in several runs`, {
      figure: 'compare',
      run: runs.map((run) => run.name),
      layer: chosen,
    }).root,
  );
  return refresh;
}

// The models of the runs: their layers, or what went wrong.
function ask(runs) {
  return Promise.all(
    runs.map((run) =>
      get('model', {run: run.name}).catch(({message, hint}) => ({run, error: {message, hint}})),
    ),
  );
}
