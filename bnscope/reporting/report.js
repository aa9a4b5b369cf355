// Draws the figures of a report when they are scrolled to, light or dark as the system is.

const themes = JSON.parse(document.getElementById('themes').textContent);
const system = matchMedia('(prefers-color-scheme: dark)');
let printing = false; // paper is white

function isDark() {
  return system.matches && !printing;
}

function given(plot) {
  return JSON.parse(document.getElementById(`figure-${plot.dataset.figure}`).textContent);
}

function draw(plot) {
  const figure = given(plot);
  const template = isDark() ? themes.dark : themes.light;
  const layout = {...figure.layout, template, width: plot.clientWidth};
  const config = {displayModeBar: false, doubleClick: 'reset+autosize'};
  window.Plotly.react(plot, figure.data, layout, config);
  if (!plot.drawn) plot.parentElement.prepend(buttons(plot));
  plot.drawn = true;
}

function buttons(plot) {
  const made = document.createElement('div');
  made.className = 'buttons';
  const title = (plot.parentElement.getAttribute('aria-label') ?? 'figure').replace(/[^\w.-]+/g, '_');
  const add = (text, action) => {
    const button = document.createElement('button');
    button.textContent = text;
    button.addEventListener('click', action);
    made.append(button);
  };
  add('PNG', async () => {
    const {width, height} = plot._fullLayout;
    const url = await window.Plotly.toImage(plot, {format: 'png', width, height, scale: 2});
    download(url, `${title}.png`);
  });
  add('CSV', () => {
    const url = URL.createObjectURL(new Blob([table(given(plot))], {type: 'text/csv'}));
    download(url, `${title}.csv`);
  });
  return made;
}

function restyle() {
  for (const plot of document.querySelectorAll('.plot')) if (plot.drawn) draw(plot);
}

restyle();
system.addEventListener('change', restyle);
window.addEventListener('resize', restyle);
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) if (entry.isIntersecting && !entry.target.drawn) draw(entry.target);
  },
  {rootMargin: '400px'},
);
for (const plot of document.querySelectorAll('.plot')) seen.observe(plot);
window.addEventListener('beforeprint', () => {
  printing = true;
  for (const plot of document.querySelectorAll('.plot')) draw(plot);
});
window.addEventListener('afterprint', () => {
  printing = false;
  restyle();
});
