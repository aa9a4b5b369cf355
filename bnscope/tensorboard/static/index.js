// The tab "BN Scope". TensorBoard imports this module into a frame and calls render().

import {get, load} from './server.js';
import {element} from './dom.js';
import * as host from './host.js';
import {refreshFigures, retheme, setThemes} from './figure.js';
import * as address from './address.js';
import {pageHeader} from './header.js';
import {overview} from './overview.js';
import {layers} from './layers.js';
import {layer} from './layer.js';
import {compare} from './compare.js';
import {model} from './model.js';

const VIEWS = {overview, layers, layer, compare, model};

export async function render() {
  document.documentElement.lang = 'en';
  document.head.append(
    element('link', {rel: 'stylesheet', href: new URL('./style.css', import.meta.url).href}),
  );
  const app = new App();
  document.body.append(app.header, app.main);
  app.main.append(element('p', {class: 'note', role: 'status'}, 'Loading …'));
  host.onDarkMode((dark) => {
    document.body.classList.toggle('dark', dark);
    retheme(dark);
  });
  await app.begin();
}

class App {
  constructor() {
    this.header = element('header');
    this.main = element('main');
    this.state = address.read();
    this.catalogue = {runs: [], statistics: [], columns: [], most_runs: 8};
    this.selected = null; // the names of TensorBoard's runs; null until it tells them
    this.shown = 0; // counts views, so that answers for an earlier one are dropped
  }

  async begin() {
    address.onChange((state) => {
      this.state = state;
      this.show();
    });
    host.onRuns((names) => {
      this.selected = names === null ? null : new Set(names);
      this.reload();
    });
    host.onReload(() => this.reload());
    const [themes] = await Promise.all([get('themes'), load('plotly.min.js')].map(settled));
    if (themes.value) setThemes(themes.value);
    await this.reload();
  }

  // The runs that can be shown: they hold events, and TensorBoard has them.
  get runs() {
    const known = this.selected;
    const all = this.catalogue.runs;
    return known === null ? all : all.filter((run) => known.has(run.name));
  }

  // The run that most views are about.
  get run() {
    const runs = this.runs;
    return runs.find((run) => run.name === this.state.run) ?? this.compared[0] ?? runs[0];
  }

  // The runs that are compared: all but those that were left out, as many as there are colours.
  get compared() {
    const left = new Set(this.state.without);
    return this.runs.filter((run) => !left.has(run.name)).slice(0, this.catalogue.most_runs);
  }

  // Changes the state and shows it; the address tells it, and the browser's Back undoes it.
  go(changes, {replace = false} = {}) {
    this.state = {...this.state, ...changes};
    address.write(this.state, replace);
    this.show();
  }

  // Changes the state without drawing the view anew.
  keep(changes) {
    this.state = {...this.state, ...changes};
    address.write(this.state, true);
  }

  // New data: the same view with what is there now.
  async reload() {
    try {
      this.catalogue = await get('runs');
    } catch (error) {
      this.fail(error);
      return;
    }
    const key = JSON.stringify([this.state, this.runs]);
    if (key === this.key && this.refresh) {
      await this.refresh();
      refreshFigures();
    } else {
      await this.show();
    }
  }

  async show() {
    const turn = ++this.shown;
    this.key = JSON.stringify([this.state, this.runs]);
    this.refresh = null;
    pageHeader(this);
    if (!this.run) {
      this.main.replaceChildren(nothing(this.catalogue.runs.length > 0));
      return;
    }
    const view = VIEWS[this.state.view] ?? overview;
    const page = element('div', {class: 'page'});
    try {
      const refresh = await view(this, page);
      if (turn !== this.shown) return;
      this.main.replaceChildren(page);
      this.refresh = refresh ?? (() => {});
      page.dispatchEvent(new CustomEvent('shown'));
    } catch (error) {
      if (turn === this.shown) this.fail(error);
    }
  }

  fail(error) {
    this.refresh = null;
    this.main.replaceChildren(
      element(
        'div',
        {class: 'failure', role: 'alert'},
        element('p', {}, error.message),
        error.hint ? element('p', {}, error.hint) : null,
        element('button', {onclick: () => this.reload()}, 'Try again'),
      ),
    );
  }
}

function nothing(others) {
  return element(
    'div',
    {class: 'empty'},
    element('h2', {}, others ? 'No run is selected' : 'No events of Batch Normalization yet'),
    others
      ? element('p', {}, 'Select a run that BatchNormMonitor or bnscope track has written.')
      : element(
          'p',
          {},
          'Train with ',
          element('code', {}, 'callbacks=[BatchNormMonitor("logs/run1")]'),
          ', or run ',
          element('code', {}, "bnscope track 'ckpt/*.keras' --logdir logs/run1"),
          '.',
        ),
  );
}

async function settled(promise) {
  try {
    return {value: await promise};
  } catch (error) {
    return {error};
  }
}
