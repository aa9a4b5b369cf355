// The values of a figure as a table, and saving.

const ARRAYS = {
  f4: Float32Array,
  f8: Float64Array,
  i1: Int8Array,
  i2: Int16Array,
  i4: Int32Array,
  u1: Uint8Array,
  u2: Uint16Array,
  u4: Uint32Array,
};

export function download(url, name) {
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
}

// A figure's values as CSV: a line for each cell of a map or point of a line.
export function table(figure) {
  const rows = [];
  for (const trace of figure.data) {
    if (trace.type === 'heatmap') rows.push(...cells(trace));
    else if (trace.hoverinfo !== 'skip') rows.push(...points(trace));
  }
  const heads = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const lines = [heads, ...rows.map((row) => heads.map((head) => row[head] ?? ''))];
  return lines.map((line) => line.map(quoted).join(',')).join('\n') + '\n';
}

function cells(trace) {
  const [x, y] = [values(trace.x), values(trace.y)];
  const shown = values(trace.customdata ?? trace.z);
  return [...y].flatMap((row, i) =>
    [...x].map((step, j) => ({row: plain(row), step, [trace.name]: shown[i * x.length + j]})),
  );
}

function points(trace) {
  const [x, y] = [values(trace.x), values(trace.y)];
  const columns = trace.meta?.columns ?? null;
  const beside = columns ? values(trace.customdata) : null;
  return [...x].flatMap((at, i) => {
    if (at === null) return [];
    const row = {panel: plain(trace.meta?.panel ?? ''), series: plain(trace.name ?? ''), x: at};
    if (trace.text?.[i]) row.of = plain(trace.text[i]);
    if (!columns) return [{...row, y: plain(y[i])}];
    columns.forEach((column, j) => (row[column] = beside[i * columns.length + j]));
    return [row];
  });
}

// An array as plotly writes it: a list, or numbers in base64, in one row after another.
function values(array) {
  if (array === undefined || array === null) return [];
  if (array.bdata === undefined) return Array.isArray(array[0]) ? array.flat() : array;
  const bytes = Uint8Array.from(atob(array.bdata), (letter) => letter.charCodeAt(0));
  return new ARRAYS[array.dtype](bytes.buffer);
}

// Names are escaped for plotly.
export function plain(value) {
  if (typeof value !== 'string') return value;
  return value.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&');
}

function quoted(value) {
  let text = String(value);
  if (typeof value === 'string' && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // no formula
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
