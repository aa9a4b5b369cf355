// The tab "BN Scope". TensorBoard imports this module into a frame and calls render().

import {get} from './server.js';
import {element, replace} from './dom.js';
import * as host from './host.js';
import {dropFigures, prepare, refreshFigures, retheme} from './figure.js';
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
    this.shown = 0; // counts views, so that answers for an earlier one are dropped
  }

  async begin() {
    address.onChange((state) => {
      this.state = state;
      this.show();
    });
    prepare().catch(() => {}); // figures tell what went wrong
    await this.reload();
    host.onReload(() => this.reload());
  }

  // The view that is shown; an address may name anything.
  get view() {
    return Object.hasOwn(VIEWS, this.state.view) ? this.state.view : 'overview';
  }

  // The runs that are selected in TensorBoard.
  get runs() {
    return this.catalogue.runs.filter((run) => address.isSelected(run.name));
  }

  // The run that most views are about.
  get run() {
    return this.runs.find((run) => run.name === this.state.run) ?? this.runs[0];
  }

  // The runs that are compared, the chosen one among them: as many as there are colours.
  get compared() {
    const first = this.runs.slice(0, this.catalogue.most_runs);
    return !this.run || first.includes(this.run) ? first : [...first.slice(0, -1), this.run];
  }

  get leftOut() {
    const left = this.runs.length - this.compared.length;
    return left > 0 ? `${left} more of ${this.runs.length} runs are not shown.` : '';
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
    const before = JSON.stringify(this.catalogue.runs);
    const turn = this.shown;
    try {
      this.catalogue = await get('runs');
    } catch (error) {
      this.fail(error, turn);
      return;
    }
    if (this.refresh && JSON.stringify(this.catalogue.runs) === before) return;
    if (this.refresh && this.key === this.names()) {
      pageHeader(this);
      const shown = this.shown;
      await this.refresh().catch((error) => this.fail(error, shown));
      refreshFigures();
    } else {
      await this.show();
    }
  }

  names() {
    return JSON.stringify(this.runs.map((run) => run.name));
  }

  async show() {
    const turn = ++this.shown;
    this.key = this.names();
    this.refresh = null;
    pageHeader(this);
    if (!this.run) {
      this.fill(nothing(this.catalogue.runs.length > 0));
      this.refresh = async () => {};
      return;
    }
    const page = element('div', {class: 'page', 'data-page': this.view});
    try {
      const refresh = await VIEWS[this.view](this, page);
      if (turn !== this.shown) return;
      this.fill(page);
      this.refresh = refresh ?? (async () => {});
    } catch (error) {
      this.fail(error, turn);
    }
  }

  fill(child) {
    replace(this.main, child);
    dropFigures();
  }

  // Tells what went wrong, unless another view has been opened since.
  fail(error, turn) {
    if (turn !== this.shown) return;
    this.shown++;
    this.refresh = null;
    this.fill(
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
