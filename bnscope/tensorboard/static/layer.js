// One layer: quantiles over steps, its channels, one of them, and their distribution.

import {chip, choice, element, link, number, plural, replace} from './dom.js';
import {Figure} from './figure.js';
import {get} from './server.js';

const VARIABLES = ['moving_variance', 'moving_mean', 'gamma', 'beta'];
const SORTS = [
  {name: 'worst', title: 'worst first'},
  {name: 'change', title: 'changed most first'},
  {name: 'number', title: 'by number'},
];

export async function layer(app, page) {
  const run = app.run.name;
  const [known, health] = await ask(run);
  const watched = known.layers.filter((each) => each.watched);
  const shown =
    watched.find((each) => each.layer === app.state.layer) ??
    (app.state.layer ? null : first(watched, health));
  page.append(picker(app, watched, shown));
  if (!shown) {
    page.append(element('p', {class: 'empty'}, `${app.state.layer} is not watched in this run.`));
    return;
  }
  const here = {run, layer: shown.layer};
  const line = element('p', {class: 'note'}, facts(shown));
  const told = element('div', {class: 'alerts'}, alerts(app, health, shown));
  // The server reads the values of every channel for all but the first.
  const bands = new Figure(`Statistics of ${shown.layer} over steps`, {figure: 'bands', ...here});
  const each = channels(app, here, shown, health);
  const chosen = histograms(app, here);
  page.append(line, told, bands.root, ...each, ...chosen.elements);
  return async () => {
    const [[known, health]] = await Promise.all([ask(run), chosen.refresh()]);
    const now = known.layers.find((each) => each.layer === shown.layer) ?? shown;
    line.replaceChildren(facts(now));
    replace(told, ...alerts(app, health, now));
  };
}

function ask(run) {
  return Promise.all(['model', 'health'].map((route) => get(route, {run})));
}

// The layer to begin with: the one in most trouble.
function first(watched, health) {
  const names = health.troubles.map((trouble) => trouble.layer);
  return watched.find((each) => each.layer === names[0]) ?? watched[0];
}

function picker(app, watched, shown) {
  const index = watched.indexOf(shown);
  const step = (offset, text) => {
    const other = watched[index + offset];
    return element(
      'button',
      {
        disabled: !other || index < 0,
        title: other && index >= 0 ? other.layer : null,
        'data-focus': text,
        onclick: () => app.go({layer: other.layer, channel: '', step: ''}),
      },
      text,
    );
  };
  const options = watched.map((each) => ({name: each.layer, title: each.layer}));
  if (!shown) options.unshift({name: '', title: 'choose a layer'});
  return element(
    'div',
    {class: 'controls'},
    choice('Layer', options, shown?.layer ?? '', (name) =>
      app.go({layer: name, channel: '', step: ''}),
    ),
    step(-1, 'Previous'),
    step(1, 'Next'),
  );
}

function facts(shown) {
  const parts = [
    plural(shown.watched, 'channel'),
    shown.momentum === null ? null : `momentum ${number(shown.momentum)}`,
    shown.epsilon === null ? null : `epsilon ${number(shown.epsilon)}`,
    shown.fed_by?.length ? `fed by ${shown.fed_by.join(', ')}` : null,
    shown.folds_into ? `folds into ${shown.folds_into}` : null,
    shown.trainable === false ? 'frozen' : null,
    shown.status && shown.status !== 'exact'
      ? `mini-batch statistics not told: ${shown.status}`
      : null,
  ];
  return parts.filter(Boolean).join(' · ');
}

function alerts(app, health, shown) {
  const found = health.troubles.filter((trouble) => trouble.layer === shown.layer);
  return found.map((trouble) =>
    element(
      'p',
      {},
      chip(trouble.severity),
      ` ${trouble.code} ${trouble.name} since step ${trouble.since}`,
      trouble.until === null ? '' : `, no more at step ${trouble.until}`,
      `: ${trouble.message} `,
      element('i', {}, trouble.advice),
      ' ',
      trouble.channels
        .slice(0, 8)
        .map(([channel, step]) =>
          link(
            `channel ${channel}: step ${step}`,
            () => app.go({channel: String(channel)}, {replace: true}),
            'Follow this channel',
          ),
        ),
    ),
  );
}

function channels(app, here, shown, health) {
  const variable = app.state.variable || VARIABLES[0];
  const sort = app.state.sort || SORTS[0].name;
  const one = new Figure(
    `One channel of ${shown.layer} through time`,
    {figure: 'channel', ...here, channel: channel(app, shown, health)},
    {told: (meta) => (input.value = meta?.channel ?? '')},
  );
  const follow = (chosen) => {
    app.keep({channel: String(chosen)});
    input.value = chosen;
    one.set({channel: String(chosen)});
  };
  const all = new Figure(
    `Every channel of ${shown.layer} through time`,
    {figure: 'channels', ...here, variable, sort},
    {click: (event) => follow(Number(event.points[0].y.replace('channel ', '')))},
  );
  const input = element('input', {
    type: 'number',
    min: 0,
    max: shown.watched - 1,
    value: channel(app, shown, health),
    onchange: () => {
      if (input.value === '') return;
      const chosen = Math.min(Math.max(Math.round(Number(input.value)), 0), shown.watched - 1);
      follow(chosen);
    },
  });
  const titles = app.catalogue.statistics.filter((each) => VARIABLES.includes(each.name));
  return [
    element('h2', {}, 'Channels'),
    element(
      'div',
      {class: 'controls'},
      choice('Variable', titles, variable, (name) => {
        app.keep({variable: name});
        all.set({variable: name});
      }),
      choice('Order', SORTS, sort, (name) => {
        app.keep({sort: name});
        all.set({sort: name});
      }),
      element('span', {class: 'note'}, 'Click on a channel to follow it.'),
    ),
    all.root,
    element('div', {class: 'controls'}, element('label', {class: 'choice'}, 'Channel', input)),
    one.root,
  ];
}

// The channel to follow: the chosen one, else the first that an alert names.
function channel(app, shown, health) {
  const chosen = Number(app.state.channel || NaN);
  if (Number.isInteger(chosen) && chosen >= 0 && chosen < shown.watched) return String(chosen);
  const named = health.troubles
    .filter((trouble) => trouble.layer === shown.layer)
    .flatMap((trouble) => trouble.channels.map(([number]) => number));
  return String(named.find((number) => number >= 0 && number < shown.watched) ?? '');
}

// The distribution at a step: the elements, and what to do when there may be more steps.
function histograms(app, here) {
  let steps = [];
  let chosen = app.state.step;
  const figure = new Figure(`Distribution of the channels of ${here.layer}`, {
    figure: 'histograms',
    ...here,
    step: chosen ?? '',
  });
  const shown = element('output');
  const choose = () => {
    chosen = String(steps[slider.value]);
    shown.textContent = `step ${chosen}`;
  };
  const slider = element('input', {
    type: 'range',
    oninput: choose,
    onchange: () => {
      choose();
      app.keep({step: chosen});
      figure.set({step: chosen});
    },
  });
  const controls = element(
    'div',
    {class: 'controls', hidden: true},
    element('label', {class: 'choice'}, 'Step', slider, shown),
  );
  const refresh = async () => {
    ({steps} = await get('steps', {run: here.run}));
    controls.hidden = steps.length < 2;
    if (controls.hidden) return;
    slider.max = steps.length - 1;
    slider.value = nearest(steps, Number(chosen || steps.at(-1)));
    shown.textContent = `step ${steps[slider.value]}`;
  };
  refresh().catch(() => {}); // the figure tells what went wrong
  return {elements: [element('h2', {}, 'Distribution'), controls, figure.root], refresh};
}

function nearest(steps, step) {
  return steps.reduce(
    (best, each, i) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? i : best),
    0,
  );
}
