import type { OpenApiDocument, OpenApiOperation } from '@tally/contracts/openapi';
import { useMutation, useQuery } from '@tanstack/react-query';
import { Link, useNavigate, useSearch } from '@tanstack/react-router';
import { Lock, Search } from 'lucide-react';
import { type ReactNode, useEffect, useState } from 'react';
import { api } from '../api.ts';
import { Brand } from '../ui/brand.tsx';
import { Answer, Button, Chip, Code, Empty, SkeletonRows, useTitle } from '../ui/parts.tsx';
import { CopyButton } from '../ui/popups.tsx';

type Schema = {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  items?: Schema;
  anyOf?: Schema[];
  allOf?: Schema[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  required?: string[];
};
type Content = { content?: Record<string, { schema: Schema; example?: unknown }> };
type Parameter = { name: string; in: string; required?: boolean; schema?: Schema };
type Named = { path: string; method: string; operation: OpenApiOperation };

async function readDocument(): Promise<OpenApiDocument> {
  const answer = await fetch('/openapi.json');
  if (!answer.ok) throw new Error('The document did not come.');
  return answer.json() as Promise<OpenApiDocument>;
}

/** Shows every operation of every service, and calls them for signed-in users. */
export function ApiDocs() {
  const { search = '' } = useSearch({ from: '/docs' });
  const navigate = useNavigate({ from: '/docs' });
  useTitle('API');
  const document = useQuery({ queryKey: ['openapi'], queryFn: readDocument, staleTime: Number.POSITIVE_INFINITY });
  const session = useQuery(api.sessions.current.queryOptions(undefined, { retry: false }));
  const signedIn = session.data !== undefined;
  return (
    <div className="docs">
      <header className="docs-top">
        <Link to="/app/overview" aria-label="Tally">
          <Brand />
        </Link>
        <label className="docs-search">
          <Search size={15} aria-hidden="true" />
          <input
            type="search"
            aria-label="Search operations"
            placeholder="Search operations"
            value={search}
            onChange={(event) =>
              void navigate({ search: event.target.value ? { search: event.target.value } : {}, replace: true })
            }
          />
        </label>
        {signedIn ? (
          <Link className="button" to="/app/overview">
            Console
          </Link>
        ) : (
          <Link className="button" to="/app/sign-in" search={{ next: '/docs' }}>
            Sign in to try calls
          </Link>
        )}
      </header>
      <Answer query={document} waiting={<SkeletonRows rows={12} height={30} />}>
        {(found) => <Operations document={found} search={search} signedIn={signedIn} />}
      </Answer>
    </div>
  );
}

function Operations({ document, search, signedIn }: { document: OpenApiDocument; search: string; signedIn: boolean }) {
  const wanted = search.trim().toLowerCase();
  const all: Named[] = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const matching = all.filter(({ path, operation }) => `${path} ${operation.summary}`.toLowerCase().includes(wanted));
  const groups = document.tags
    .map((tag) => ({ ...tag, operations: matching.filter(({ operation }) => operation.tags.includes(tag.name)) }))
    .filter(({ operations }) => operations.length > 0);
  // The operations load after the page, so the browser has not found the one in the address.
  useEffect(() => {
    if (location.hash) window.document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  }, []);
  return (
    <div className="docs-columns">
      <nav className="docs-nav" aria-label="Operations">
        {groups.map(({ name, operations }) => (
          <a key={name} className="nav-link" href={`#${name}`}>
            {name} <small>{operations.length}</small>
          </a>
        ))}
      </nav>
      <main className="stack" id="main">
        <div className="docs-intro">
          <h1>{document.info.title} API</h1>
          <p>{document.info.description}</p>
          <p>
            Send an API key as <code>Authorization: Bearer …</code> or <code>x-api-key: …</code>. Procedures are at{' '}
            <code>/trpc/…</code>; their answers are in <code>result.data</code>. The whole document is{' '}
            <a href="/openapi.json">openapi.json</a>.
          </p>
        </div>
        {groups.length === 0 && (
          <Empty title="No operation matches these words">Search for part of a path or a summary.</Empty>
        )}
        {groups.map(({ name, description, operations }) => (
          <section key={name} id={name} className="card" aria-label={name}>
            <div className="card-head">
              <h2>
                {name} <small>{description}</small>
              </h2>
            </div>
            {operations.map((each) => (
              <Operation key={`${each.method} ${each.path}`} {...each} document={document} signedIn={signedIn} />
            ))}
          </section>
        ))}
      </main>
    </div>
  );
}

function Operation({
  path,
  method,
  operation,
  document,
  signedIn,
}: Named & { document: OpenApiDocument; signedIn: boolean }) {
  const [open, setOpen] = useState(() => location.hash === `#${operation.operationId}`);
  return (
    <details
      className="operation"
      id={operation.operationId}
      open={open}
      onToggle={(event) => setOpen(event.currentTarget.open)}
    >
      <summary>
        <span className="verb" data-verb={method}>
          {method.toUpperCase()}
        </span>
        <code>{path}</code>
        <span className="operation-summary">{operation.summary}</span>
      </summary>
      {open && <Details path={path} method={method} operation={operation} document={document} signedIn={signedIn} />}
    </details>
  );
}

function Details({
  path,
  method,
  operation,
  document,
  signedIn,
}: Named & { document: OpenApiDocument; signedIn: boolean }) {
  const parameters = (operation.parameters ?? []) as Parameter[];
  const body = Object.values((operation.requestBody as Content | undefined)?.content ?? {})[0];
  const [answerType, answer] = Object.entries((operation.responses[200] as Content).content ?? {})[0] ?? [];
  // tRPC wraps all answers in the same way.
  const inner = path.startsWith('/trpc/') ? answer?.schema.properties?.result?.properties?.data : undefined;
  const curl = curlOf(path, method, parameters, body?.example);
  return (
    <div className="operation-body">
      <p className="muted">
        <Lock size={13} aria-hidden="true" /> {operation.description.replaceAll('`', '')}
      </p>
      {parameters.length > 0 && (
        <Part title="Parameters">
          <dl className="fields">
            {parameters.map(({ name, required, schema, in: place }) => (
              <Field
                key={name}
                name={name}
                required={required === true}
                schema={schema ?? { type: 'string', description: 'JSON.' }}
                document={document}
                note={place === 'path' ? 'in the path' : undefined}
              />
            ))}
          </dl>
        </Part>
      )}
      {body && (
        <Part title="Body">
          <Fields schema={body.schema} document={document} />
        </Part>
      )}
      {answer && (
        <Part title="Answer" note={inner ? 'in result.data' : answerType}>
          <Fields schema={inner ?? answer.schema} document={document} />
        </Part>
      )}
      <div className="columns">
        <Part title="Example" tools={<CopyButton text={curl} />}>
          <Code>{curl}</Code>
        </Part>
        {answer?.example !== undefined && (
          <Part title="Example of an answer">
            <Code>{JSON.stringify(answer.example, null, 2)}</Code>
          </Part>
        )}
      </div>
      {signedIn && answerType === 'application/json' && (
        <TryIt path={path} method={method} parameters={parameters} example={body?.example} />
      )}
    </div>
  );
}

const Part = ({
  title,
  note,
  tools,
  children,
}: {
  title: string;
  note?: ReactNode;
  tools?: ReactNode;
  children: ReactNode;
}) => (
  <section className="operation-part">
    <h3>
      {title} {note && <small>{note}</small>} {tools}
    </h3>
    {children}
  </section>
);

const EXAMPLES: Record<string, string> = {
  startDate: '2026-11-01',
  endDate: '2026-11-20',
  interval: 'day',
  by: 'model',
};

function exampleParameters(parameters: readonly Parameter[]): URLSearchParams {
  return new URLSearchParams(
    parameters
      .filter(({ required, in: place }) => required && place === 'query')
      .map(({ name }) => [name, EXAMPLES[name] ?? '…']),
  );
}

function curlOf(path: string, method: string, parameters: readonly Parameter[], example: unknown): string {
  const query = exampleParameters(parameters).toString();
  const lines = [`curl '${location.origin}${path}${query && `?${query}`}'`, `-H "Authorization: Bearer $TALLY_KEY"`];
  if (method === 'post') lines.push(`-H 'Content-Type: application/json'`);
  if (example !== undefined) lines.push(`-d '${JSON.stringify(example, null, 2).replaceAll("'", "'\\''")}'`);
  else if (method === 'post') lines.push('-X POST');
  return lines.join(' \\\n  ');
}

/** Sends a call with the session of the console. */
function TryIt({
  path,
  method,
  parameters,
  example,
}: {
  path: string;
  method: string;
  parameters: readonly Parameter[];
  example: unknown;
}) {
  const get = method === 'get';
  const [text, setText] = useState(() =>
    get ? exampleParameters(parameters).toString() : JSON.stringify(example ?? {}, null, 2),
  );
  const send = useMutation({
    async mutationFn() {
      const answer = await fetch(get ? `${path}?${text}` : path, {
        method: method.toUpperCase(),
        ...(!get && { headers: { 'content-type': 'application/json' }, body: text }),
      });
      const body = await answer.text();
      return { status: answer.status, text: pretty(body) };
    },
  });
  return (
    <Part title="Try it" note="Uses your session. Calls that write change real data.">
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          send.mutate();
        }}
      >
        <textarea
          className="input mono"
          aria-label={get ? 'Query parameters' : 'Body'}
          rows={get ? 2 : Math.min(16, text.split('\n').length)}
          spellCheck={false}
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        <div className="tools">
          <Button kind="primary" type="submit" disabled={send.isPending}>
            Send
          </Button>
          {send.data && <Chip tone={send.data.status < 300 ? 'good' : 'bad'}>{send.data.status}</Chip>}
          {send.error && <Chip tone="bad">no answer</Chip>}
        </div>
      </form>
      {send.data && <Code>{send.data.text}</Code>}
    </Part>
  );
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const PREFIX = '#/components/schemas/';
const nameOf = ({ $ref }: Schema) => $ref?.slice(PREFIX.length);

function resolved(schema: Schema, document: OpenApiDocument): Schema {
  const name = nameOf(schema);
  return name ? resolved(document.components.schemas[name] as Schema, document) : schema;
}

/** Writes the type of a schema on one line. */
function typeOf(schema: Schema): string {
  const name = nameOf(schema);
  if (name) return name;
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeOf))].join(' | ');
  if (schema.allOf) return schema.allOf.map(typeOf).join(' & ');
  if (schema.type === 'array') return `${schema.items ? typeOf(schema.items) : 'any'}[]`;
  if (schema.type === 'object' && typeof schema.additionalProperties === 'object')
    return `{ [name]: ${typeOf(schema.additionalProperties)} }`;
  return [schema.type ?? 'any'].flat().join(' | ');
}

/** Returns the part of a schema with fields of its own: of an array or a union, that of its items. */
function fieldsOf(schema: Schema, document: OpenApiDocument): Schema | undefined {
  const found = resolved(schema, document);
  if (found.properties) return found;
  if (found.items) return fieldsOf(found.items, document);
  if (typeof found.additionalProperties === 'object') return fieldsOf(found.additionalProperties, document);
  for (const each of found.anyOf ?? []) {
    const inner = fieldsOf(each, document);
    if (inner) return inner;
  }
  return undefined;
}

function Fields({ schema, document }: { schema: Schema; document: OpenApiDocument }) {
  const found = fieldsOf(schema, document);
  if (!found?.properties) return <code>{typeOf(schema)}</code>;
  return (
    <dl className="fields">
      {Object.entries(found.properties).map(([name, field]) => (
        <Field
          key={name}
          name={name}
          required={found.required?.includes(name) === true}
          schema={field}
          document={document}
        />
      ))}
    </dl>
  );
}

function Field({
  name,
  required,
  schema,
  document,
  note,
}: {
  name: string;
  required: boolean;
  schema: Schema;
  document: OpenApiDocument;
  note?: string | undefined;
}) {
  const inner = fieldsOf(schema, document);
  const [open, setOpen] = useState(false);
  const about = [schema.description ?? resolved(schema, document).description, note].filter(Boolean).join(' ');
  const fallback = schema.default === undefined ? undefined : JSON.stringify(schema.default);
  return (
    <>
      <dt>
        <code>{name}</code>
        {!required && <small>optional</small>}
      </dt>
      <dd>
        <code className="field-type">{typeOf(schema)}</code>
        {fallback && <small>default {fallback}</small>}
        {about && <span>{about}</span>}
        {inner && (
          <details open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
            <summary>fields</summary>
            {open && <Fields schema={inner} document={document} />}
          </details>
        )}
      </dd>
    </>
  );
}
