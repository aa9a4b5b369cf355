// The BN layers in forward order: what feeds them, and whether they fold.

import {element, link, number, plural, table} from './dom.js';
import {get} from './server.js';

export async function model(app, page) {
  const known = await get('model', {run: app.run.name});
  const rows = known.layers.map((row) => [
    row.watched
      ? link(
          row.layer,
          () => app.go({view: 'layer', layer: row.layer, channel: '', step: ''}),
          'Open the layer',
        )
      : element('span', {title: 'not watched'}, row.layer),
    row.fed_by?.join(', ') || '?',
    row.feeds?.join(', ') || '?',
    String(row.channels ?? row.watched ?? '?'),
    row.momentum === null ? '?' : number(row.momentum),
    row.epsilon === null ? '?' : number(row.epsilon),
    state(row),
    row.folds_into
      ? element('span', {title: row.detail}, row.folds_into)
      : element('span', {}, `kept: ${row.reason ?? '?'}`, row.detail ? `, ${row.detail}` : ''),
  ]);
  page.append(
    element(
      'h2',
      {},
      `${known.model || 'Model'}: ${plural(known.layers.length, 'BN layer')} in forward order`,
    ),
    table(
      ['layer', 'fed by', 'feeds', 'channels', 'momentum', 'epsilon', 'state', 'folds into'],
      rows,
      'BN layers',
    ),
  );
}

function state(row) {
  const parts = [
    row.trainable === false ? 'frozen' : null,
    row.calls > 1 ? `called ${row.calls} times` : null,
    row.watched ? null : 'not watched',
  ];
  return parts.filter(Boolean).join(', ') || 'trainable';
}
