import { createHash } from 'node:crypto';

const STYLE = `
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
  summary { cursor: pointer; font-family: monospace } details { margin: .25rem 0 }
  textarea, input { width: 100%; box-sizing: border-box; font-family: monospace }
  textarea { min-height: 5rem } pre { overflow: auto; background: #8881; padding: .5rem }
`;

const SCRIPT = `
  const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text || '' });
  const show = (value) => JSON.stringify(value, null, 2);
  fetch('openapi.json').then((answer) => answer.json()).then(({ paths }) => {
    for (const [path, methods] of Object.entries(paths)) for (const [method, operation] of Object.entries(methods)) {
      const block = make('details');
      const input = make('textarea');
      input.value = '{}';
      input.setAttribute('aria-label', 'Input as JSON');
      const send = make('button', 'Send');
      const answer = make('pre');
      send.onclick = async () => {
        try {
          const given = JSON.parse(input.value);
          const headers = { authorization: 'Bearer ' + document.getElementById('key').value };
          let url = path.slice(1), body;
          if (method === 'post') { body = JSON.stringify(given); headers['content-type'] = 'application/json' }
          else if (path.startsWith('/trpc/')) url += '?input=' + encodeURIComponent(JSON.stringify(given));
          else url += '?' + new URLSearchParams(Object.entries(given).flatMap(([k, v]) => [].concat(v).map((each) => [k, each])));
          const response = await fetch(url, { method: method.toUpperCase(), headers, body });
          answer.textContent = response.status + ' ' + show(await response.json());
        } catch (error) { answer.textContent = String(error) }
      };
      block.append(make('summary', method.toUpperCase() + ' ' + path), make('p', operation.summary), input, send, answer,
        make('pre', show(operation.requestBody || operation.parameters)));
      document.getElementById('operations').append(block);
    }
  });
`;

/** A page to read the OpenAPI document and try its calls; everything it needs is in it. */
export const DOCS_PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tally metrics-engine</title>
<style>${STYLE}</style>
<h1>metrics-engine</h1>
<p>Made from <a href="openapi.json">openapi.json</a>.</p>
<label>API key <input id="key" type="password" autocomplete="off"></label>
<main id="operations"></main>
<script>${SCRIPT}</script>
</html>
`;

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** Runs the page's own script and style only, and lets no other page frame it. */
export const DOCS_POLICY = [
  "default-src 'none'",
  `style-src ${hashOf(STYLE)}`,
  `script-src ${hashOf(SCRIPT)}`,
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');
