// The head of the page: the views, and which runs they show.

import {choice, element} from './dom.js';

const VIEWS = {
  overview: 'Overview',
  layers: 'Layers',
  layer: 'Layer',
  compare: 'Compare',
  model: 'Model',
};

export function pageHeader(app) {
  const views = element(
    'nav',
    {'aria-label': 'Views of Batch Normalization'},
    Object.entries(VIEWS).map(([name, title]) =>
      element(
        'button',
        {
          'data-view': name,
          'aria-current': name === app.state.view ? 'page' : null,
          onclick: () => app.go({view: name}),
        },
        title,
      ),
    ),
  );
  const focused = document.activeElement?.dataset?.view;
  app.header.replaceChildren(views, ...runs(app));
  if (focused) app.header.querySelector(`[data-view="${focused}"]`)?.focus();
}

function runs(app) {
  if (app.runs.length < 1) return [];
  const options = app.runs.map((run) => ({name: run.name, title: run.label}));
  const one = choice('Run', options, app.run.name, (name) => app.go({run: name}));
  return app.runs.length > 1 ? [one, compared(app)] : [one];
}

// Which runs the overview and the comparison show.
function compared(app) {
  const shown = new Set(app.compared.map((run) => run.name));
  const boxes = app.runs.map((run) => {
    const box = element('input', {type: 'checkbox', checked: shown.has(run.name)});
    box.addEventListener('change', () => {
      const without = app.runs
        .map((each) => each.name)
        .filter((name) => (name === run.name ? !box.checked : !shown.has(name)));
      app.go({without});
    });
    return element('label', {}, box, run.label);
  });
  return element(
    'details',
    {class: 'runs'},
    element('summary', {}, `Compared: ${shown.size} of ${app.runs.length} runs`),
    element('div', {class: 'boxes'}, boxes),
  );
}
