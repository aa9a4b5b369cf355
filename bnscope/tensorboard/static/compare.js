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
  const models = await Promise.all(
    runs.map((run) => get('model', {run: run.name}).catch(() => null)),
  );
  const readable = runs.filter((_, i) => models[i]);
  const runsOf = new Map(); // in how many runs each layer is
  for (const each of models.flatMap((known) => known?.layers ?? [])) {
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
      run: readable.map((run) => run.name),
      layer: chosen,
    }).root,
  );
}
