// The head of the page: the views, and which runs they show.

import {isFiltered, isSelected, select} from './address.js';
import {choice, element, replace} from './dom.js';

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
          'data-focus': title,
          'aria-current': name === app.view ? 'page' : null,
          onclick: () => app.go({view: name}),
        },
        title,
      ),
    ),
  );
  replace(app.header, views, ...runs(app));
}

function runs(app) {
  const options = app.runs.map((run) => ({name: run.name, title: run.label}));
  const one = options.length
    ? [choice('Run', options, app.run.name, (name) => app.go({run: name}))]
    : [];
  const all = app.catalogue.runs.length;
  return all > 1 || all > app.runs.length ? [...one, selected(app)] : one;
}

// Which runs are shown, as in the sidebars of TensorBoard's own tabs.
function selected(app) {
  const boxes = app.catalogue.runs.map((run) => {
    const filtered = isFiltered(run.name);
    const box = element('input', {
      type: 'checkbox',
      checked: isSelected(run.name),
      disabled: filtered,
      'data-focus': `run ${run.name}`,
    });
    box.addEventListener('change', () => {
      select(run.name, box.checked);
      app.show();
    });
    const title = filtered ? 'Left out by the filter of the runs of Time Series' : null;
    return element('label', {title}, box, run.label);
  });
  const open = document.querySelector('.runs')?.open;
  return element(
    'details',
    {class: 'runs', open},
    element('summary', {}, `${app.runs.length} of ${boxes.length} runs selected`),
    element('div', {class: 'boxes'}, boxes),
  );
}
