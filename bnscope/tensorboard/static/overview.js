// Is Batch Normalization healthy, where not, and since when.

import {chip, element, link, number, plural, replace, table} from './dom.js';
import {Figure} from './figure.js';
import {get} from './server.js';

const MOST_ROWS = 50;
const MOST_NAMED = 3;
const WORDS = {error: 'broken', warning: 'in trouble', ok: 'healthy', failed: 'unreadable'};

export async function overview(app, page) {
  const tables = element('div');
  const trends = new Figure('Trends of the whole model', {figure: 'trends'}, {wait: true});
  const map = new Figure(
    'Smallest moving variance of each layer over steps',
    {figure: 'layers', run: app.run.name, statistic: 'moving_variance'},
    {click: (event) => openLayer(app, event)},
  );
  const fill = async () => {
    const asked = app.compared.map(askHealth);
    // At once: while plotly's script is compiled, the page can ask for nothing.
    trends.set({run: app.compared.map((run) => run.name)});
    const healths = await Promise.all(asked);
    replace(tables, ...sections(app, healths));
    trends.root.hidden = healths.every((health) => health.error);
  };
  await fill();
  page.append(
    tables,
    trends.root,
    element('h2', {}, 'Where and since when'),
    element('p', {class: 'note'}, `Run ${app.run.label}. Click on a layer to open it.`),
    map.root,
  );
  return fill;
}

// Opens the layer of a cell, or of a cross, in a map.
export function openLayer(app, event) {
  const {data, pointNumber, customdata} = event.points[0];
  const row = data.type === 'heatmap' ? pointNumber[0] : customdata[1];
  app.go({view: 'layer', layer: data.meta.layers[row], channel: '', step: ''});
}

async function askHealth(run) {
  const health = await get('health', {run: run.name}).catch((error) => ({
    error: error.message,
    hint: error.hint,
  }));
  const empty = {verdict: 'failed', troubles: [], findings: [], not_analysed: []};
  return {run, ...(health.error ? {...empty, ...health} : health)};
}

function sections(app, healths) {
  const rows = healths.flatMap((health) =>
    health.troubles.map((trouble) => ({run: health.run, trouble})),
  );
  if (healths.length > 1) rows.sort((a, b) => badness(a.trouble) - badness(b.trouble));
  return [
    headline(healths, rows),
    app.leftOut ? element('p', {class: 'note'}, app.leftOut) : '',
    rows.length ? troubles(app, rows, healths.length > 1) : '',
    healths.length > 1 || healths.some((each) => each.error) ? runTable(app, healths) : '',
    lint(healths.find((health) => health.run.name === app.run?.name)),
  ];
}

function badness(trouble) {
  const order = ['error', 'warning', 'info'];
  return (trouble.until === null ? 0 : 10) + order.indexOf(trouble.severity);
}

// One sentence that says how it is.
function headline(healths, rows) {
  const readable = healths.filter((health) => !health.error);
  const worst = ['error', 'warning'].find((severity) =>
    readable.some((health) => health.verdict === severity),
  );
  const layers = new Map(); // the first of each is the worst
  for (const {run, trouble} of rows) {
    const key = `${run.name}\n${trouble.layer}`;
    if (trouble.until !== null || trouble.severity !== worst || layers.has(key)) continue;
    const of = healths.length > 1 ? ` (${run.label})` : '';
    layers.set(key, `${trouble.layer} since step ${trouble.since}${of}`);
  }
  const count = readable
    .filter((health) => health.verdict === worst)
    .reduce((sum, health) => sum + health.affected, 0);
  const named = [...layers.values()].slice(0, MOST_NAMED);
  const more = count > named.length ? `, and ${count - named.length} more` : '';
  const text = worst
    ? `Batch Normalization is ${WORDS[worst]} in ${plural(count, 'layer')}: ` +
      `${named.join(', ')}${more}.`
    : readable.length
      ? `No alert lasts: ${readable.map(span).join('; ')}.`
      : 'No run can be read.';
  return element(
    'p',
    {class: `headline ${worst ?? (readable.length ? 'ok' : 'error')}`},
    chip(worst ?? (readable.length ? 'ok' : 'error'), worst ? worst : readable.length ? 'OK' : '!'),
    ' ',
    text,
  );
}

function span(health) {
  const steps =
    health.records > 0 ? `steps ${health.first} to ${health.last}` : 'nothing recorded yet';
  return `${health.run.label}: ${plural(health.layers, 'BN layer')}, ${steps}`;
}

function troubles(app, rows, several) {
  const heads = ['', 'layer', 'since step', 'value', 'channels', 'what and what to do'];
  if (several) heads.splice(1, 0, 'run');
  const lines = rows.slice(0, MOST_ROWS).map(({run, trouble}) => {
    const open = (more = {}) =>
      app.go({view: 'layer', run: run.name, layer: trouble.layer, channel: '', step: '', ...more});
    const cells = [
      chip(trouble.severity),
      link(trouble.layer, () => open(), 'Open the layer'),
      trouble.until === null
        ? String(trouble.since)
        : `${trouble.since}, no more at ${trouble.until}`,
      element('span', {class: 'number'}, number(trouble.value)),
      channels(trouble, (channel) => open({channel: String(channel)})),
      element(
        'div',
        {},
        element('b', {}, `${trouble.code} ${trouble.name}: `),
        trouble.message,
        ' ',
        element('i', {}, trouble.advice),
      ),
    ];
    if (several) cells.splice(1, 0, run.label);
    return cells;
  });
  const left = rows.length - lines.length;
  return element(
    'section',
    {},
    element('h2', {}, 'Alerts, worst first'),
    table(heads, lines, 'Alerts'),
    left > 0 ? element('p', {class: 'note'}, `and ${left} more`) : null,
  );
}

// The channels, each opening its own curve; where many, the first ones.
function channels(trouble, open) {
  const most = 6;
  const shown = trouble.channels.slice(0, most).map(([channel, step]) =>
    link(`${channel}`, () => open(channel), `Channel ${channel}, named at step ${step}`),
  );
  const left = trouble.channels.length - most;
  return element('span', {class: 'links'}, shown, left > 0 ? ` and ${left} more` : '');
}

function runTable(app, healths) {
  const rows = healths.map((health) => {
    const open = link(health.run.label, () => app.go({run: health.run.name}), 'Show this run');
    if (health.error) {
      const why = `${health.error} ${health.hint}`;
      return [chip('error', WORDS.failed), open, '', '', '', '', why];
    }
    return [
      chip(health.verdict, WORDS[health.verdict]),
      open,
      String(health.layers),
      health.records ? `${health.first} to ${health.last}` : 'none yet',
      health.dead === null ? '' : `${health.dead} of ${health.channels}`,
      String(health.troubles.length),
      untold(health),
    ];
  });
  const heads = ['', 'run', 'BN layers', 'steps', 'dead channels', 'alerts', 'notes'];
  return element('section', {}, element('h2', {}, 'Runs'), table(heads, rows, 'Runs'));
}

function untold(health) {
  const parts = Object.entries(health.untold).map(([why, count]) => `${why} in ${count}`);
  return parts.length ? `mini-batch statistics not told: ${parts.join(', ')}` : '';
}

function lint(health) {
  if (!health || health.error) return '';
  const rows = health.findings.map((found) => [
    chip(found.severity),
    element('b', {}, `${found.code} ${found.name}`),
    places(found),
    element('div', {}, found.layers[0][1], ' ', element('i', {}, found.advice)),
  ]);
  for (const [layer, reason] of health.not_analysed) {
    rows.push([chip('info', 'not analysed'), '', layer, reason]);
  }
  const worst = health.findings.some((found) => found.severity !== 'info');
  return element(
    'details',
    {class: 'lint', open: worst},
    element(
      'summary',
      {},
      rows.length
        ? `Lint as training of ${health.run.label} began: ${plural(rows.length, 'finding')}`
        : `Lint as training of ${health.run.label} began: nothing found`,
    ),
    rows.length ? table(['', 'rule', 'layers', 'what and what to do'], rows, 'Lint') : null,
  );
}

function places(found) {
  const most = 3;
  const shown = found.layers
    .slice(0, most)
    .map(([layer]) => element('div', {}, layer || 'the model'));
  const left = found.layers.length - most;
  if (left > 0) shown.push(element('div', {class: 'note'}, `and ${left} more`));
  return element('div', {}, shown);
}
