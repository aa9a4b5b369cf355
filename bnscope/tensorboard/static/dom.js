// Elements of the page. Texts are set as text, never as markup: names come out of files.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name === 'value') made.value = value;
    else made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// Puts other elements into a parent. What had the focus has it again, or else the first that can:
// who uses the keyboard goes on from there.
export function replace(parent, ...children) {
  const had = document.activeElement;
  const key = parent.contains(had) ? had.dataset.focus : undefined;
  parent.replaceChildren(...children);
  if (key === undefined) return;
  const all = [...parent.querySelectorAll('[data-focus]')];
  const same = all.find((each) => each.dataset.focus === key && !each.disabled) ?? all[0];
  same?.focus({preventScroll: true});
}

// A labelled choice. Options are {name, title}.
export function choice(label, options, chosen, change) {
  const select = element(
    'select',
    {'data-focus': label, onchange: () => change(select.value)},
    options.map((option) =>
      element('option', {value: option.name, selected: option.name === chosen}, option.title),
    ),
  );
  return element('label', {class: 'choice'}, label, select);
}

export function table(heads, rows, label) {
  return element(
    'div',
    {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label},
    element(
      'table',
      {},
      element('thead', {}, element('tr', {}, heads.map((head) => element('th', {}, head)))),
      element(
        'tbody',
        {},
        rows.map((cells) => element('tr', {}, cells.map((cell) => element('td', {}, cell)))),
      ),
    ),
  );
}

export function link(text, open, title) {
  const key = `${title} ${text}`;
  return element('button', {class: 'link', title, 'data-focus': key, onclick: open}, text);
}

export function chip(severity, text = severity) {
  return element('span', {class: `chip ${severity}`}, text);
}

export function plural(count, noun) {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;
}

// A number as people read it; a text ("NaN") as it is.
export function number(value) {
  if (value === null || value === undefined) return '';
  return typeof value === 'number' ? String(Number(value.toPrecision(3))) : String(value);
}
