// What the plugin's routes answer.

const base = import.meta.url;
const scripts = new Map();

export async function get(route, parameters = {}) {
  const url = new URL(route, base);
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== '') url.searchParams.append(name, each);
    }
  }
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw problem('TensorBoard does not answer.', 'Is it still running?');
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok || answer === null) {
    throw problem(
      answer?.error ?? `TensorBoard answered with status ${response.status}.`,
      answer?.hint ?? '',
    );
  }
  return answer;
}

// Loads a classic script once.
export function load(name) {
  if (!scripts.has(name)) {
    scripts.set(
      name,
      new Promise((resolve, reject) => {
        const script = document.createElement('script');
        script.src = new URL(name, base).href;
        script.onload = resolve;
        script.onerror = () => {
          scripts.delete(name);
          reject(
            problem(
              `${name.split('?')[0]} cannot be loaded.`,
              "Is plotly installed? pip install 'bnscope[tensorboard]', then start TensorBoard anew.",
            ),
          );
        };
        document.head.append(script);
      }),
    );
  }
  return scripts.get(name);
}

function problem(message, hint) {
  return Object.assign(new Error(message), {hint});
}
