// The head of the page: the views, and which runs they show.

import {isSelected, select} from './address.js';
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
  const options = app.runs.map((run) => ({name: run.name, title: run.label}));
  const one = options.length
    ? [choice('Run', options, app.run.name, (name) => app.go({run: name}))]
    : [];
  return app.catalogue.runs.length > 1 ? [...one, selected(app)] : one;
}

// Which runs are shown, as in the sidebars of TensorBoard's own tabs.
function selected(app) {
  const boxes = app.catalogue.runs.map((run) => {
    const box = element('input', {type: 'checkbox', checked: isSelected(run.name)});
    box.addEventListener('change', () => {
      select(run.name, box.checked);
      app.show();
    });
    return element('label', {}, box, run.label);
  });
  const open = document.querySelector('.runs')?.open;
  return element(
    'details',
    {class: 'runs', open},
    element('summary', {}, `${app.runs.length} of ${boxes.length} runs selected`),
    element('div', {class: 'boxes'}, boxes),
  );
}
