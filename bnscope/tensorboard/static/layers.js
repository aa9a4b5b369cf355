// Any statistic of all layers over steps.

import {choice, element} from './dom.js';
import {Figure} from './figure.js';
import {openLayer} from './overview.js';

export async function layers(app, page) {
  const {statistics, columns} = app.catalogue;
  const statistic =
    statistics.find((each) => each.name === app.state.statistic) ?? statistics[0];
  const column = app.state.column || statistic.column;
  const controls = element(
    'div',
    {class: 'controls'},
    choice('Statistic', statistics, statistic.name, (name) =>
      app.go({statistic: name, column: ''}),
    ),
    statistic.column
      ? choice('Of each layer', columns, column, (name) => app.go({column: name}))
      : null,
    element('span', {class: 'note'}, 'Click on a layer to open it.'),
  );
  const figure = new Figure(
    `${statistic.title} of every layer over steps`,
    {
      figure: 'layers',
      run: app.run.name,
      statistic: statistic.name,
      column: statistic.column ? column : '',
    },
    {click: (event) => openLayer(app, event)},
  );
  page.append(controls, figure.root);
}
