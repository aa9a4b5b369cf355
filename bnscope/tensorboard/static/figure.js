// Figures: asked of the server, drawn by plotly, in the colours of the page. Nothing is computed.

import {download, plain, table} from './download.js';
import {element} from './dom.js';
import {get, load} from './server.js';

const figures = new Set();
let themes = null;
let preparing = null;
let dark = false;

// The looks of figures, and plotly, which draws them: asked for once, and again if that failed.
export function prepare() {
  preparing ??= get('themes')
    .then(async ({plotly, ...looks}) => {
      await load(`plotly.min.js?version=${encodeURIComponent(plotly)}`);
      themes = looks;
    })
    .catch((error) => {
      preparing = null;
      throw error;
    });
  return preparing;
}

export function retheme(isDark) {
  dark = isDark;
  for (const figure of figures) figure.draw();
}

// Asks for the figures that are shown once more: there is new data.
export function refreshFigures() {
  for (const figure of figures) if (!figure.waits) figure.refresh();
}

// Forgets the figures of views that are not shown any more.
export function dropFigures() {
  for (const figure of figures) {
    if (figure.root.isConnected) continue;
    figures.delete(figure);
    figure.asked++; // what is still to come is dropped
    if (figure.drawn) window.Plotly.purge(figure.plot);
  }
}

// A figure with its buttons. `parameters` are those of the route, `click` is told of points, `told`
// of what the figure says of itself; one that is to `wait` is asked for when its view sets its
// parameters.
export class Figure {
  constructor(label, parameters, {click = null, told = null, wait = false} = {}) {
    this.parameters = parameters;
    this.click = click;
    this.told = told;
    this.answer = null;
    this.asked = 0;
    this.plot = element('div', {class: 'plot', role: 'img', 'aria-label': label});
    this.status = element('p', {class: 'note', role: 'status'}, 'Loading …');
    this.buttons = element(
      'div',
      {class: 'buttons'},
      element('button', {onclick: () => this.savePicture(), title: 'Save as a picture'}, 'PNG'),
      element('button', {onclick: () => this.saveTable(), title: 'Save the values'}, 'CSV'),
    );
    this.buttons.hidden = true;
    this.root = element('section', {class: 'figure'}, this.buttons, this.status, this.plot);
    this.width = 0;
    // The tab is hidden, not destroyed: while it is, there is no width to draw in.
    new ResizeObserver(() => this.fit()).observe(this.plot);
    figures.add(this);
    this.waits = wait;
    if (!wait) this.refresh();
  }

  set(parameters) {
    this.parameters = {...this.parameters, ...parameters};
    this.refresh();
  }

  async refresh() {
    const turn = ++this.asked;
    this.root.classList.add('waiting');
    try {
      const [answer] = await Promise.all([get('figure', this.parameters), prepare()]);
      if (turn !== this.asked) return;
      this.answer = answer;
      this.told?.(answer.layout.meta);
      this.status.hidden = true;
      this.buttons.hidden = false;
      this.draw();
    } catch (error) {
      if (turn !== this.asked) return;
      this.status.hidden = false;
      this.status.replaceChildren(
        `${error.message} ${error.hint ?? ''} `,
        element('button', {onclick: () => this.refresh()}, 'Try again'),
      );
    } finally {
      if (turn === this.asked) this.root.classList.remove('waiting');
    }
  }

  draw() {
    if (this.answer === null) return;
    this.width = this.plot.clientWidth;
    if (!this.width) return; // hidden; fit() draws it when it is shown
    const layout = {
      ...this.answer.layout,
      template: dark ? themes.dark : themes.light,
      width: this.width,
      uirevision: JSON.stringify(this.parameters), // zoom stays while the same is shown
    };
    const config = {displayModeBar: false, doubleClick: 'reset+autosize', locale: 'en-US'};
    window.Plotly.react(this.plot, this.answer.data, layout, config);
    if (!this.drawn && this.click) this.plot.on('plotly_click', this.click);
    this.drawn = true;
  }

  fit() {
    if (this.plot.clientWidth && this.plot.clientWidth !== this.width) this.draw();
  }

  get title() {
    const title = this.answer.layout.title?.text ?? this.parameters.figure;
    return `bnscope ${this.parameters.figure} ${plain(title)}`.replace(/[^\w.-]+/g, '_').slice(0, 80);
  }

  async savePicture() {
    const {width, height} = this.plot._fullLayout;
    const url = await window.Plotly.toImage(this.plot, {format: 'png', width, height, scale: 2});
    download(url, `${this.title}.png`);
  }

  saveTable() {
    const text = table(this.answer);
    const url = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
    download(url, `${this.title}.csv`);
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
}
