import { useMutation } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { CircleAlert } from 'lucide-react';
import { useId, useState } from 'react';
import { queryClient } from '../api.ts';
import { signIn } from '../session.tsx';
import { Brand } from '../ui/brand.tsx';
import { Button, useTitle } from '../ui/parts.tsx';

/** The page that exchanges an API key for a session. */
export function SignIn() {
  const { next } = useSearch({ from: '/app/sign-in' });
  const navigate = useNavigate();
  useTitle('Sign in');
  return (
    <main className="door">
      <div className="card door-card">
        <Brand />
        <h1>Sign in</h1>
        <p>
          With an API key that may read usage. It is exchanged for a session of 12 hours and not kept in this browser.
        </p>
        <SignInForm
          onSignedIn={async () => {
            queryClient.clear();
            // Only to our own pages.
            const target = next?.startsWith('/app/') || next === '/docs' ? next : '/app/overview';
            await navigate({ href: target, replace: true });
          }}
        />
        <p className="door-note">
          Started it yourself? Use the key that <code>npm start</code> printed, also in <code>admin-key</code> in{' '}
          <code>TALLY_HOME</code> (default <code>.tally</code>).
        </p>
      </div>
    </main>
  );
}

/** Takes an API key and begins a session. */
export function SignInForm({ onSignedIn }: { onSignedIn: () => Promise<void> }) {
  const [key, setKey] = useState('');
  const id = useId();
  const enter = useMutation({
    mutationFn: signIn,
    onSuccess: async () => {
      setKey('');
      await onSignedIn();
    },
  });
  return (
    <form
      className="form"
      onSubmit={(event) => {
        event.preventDefault();
        enter.mutate(key.trim());
      }}
    >
      <div className="field">
        <label htmlFor={id}>API key</label>
        <input
          id={id}
          className="input"
          type="password"
          autoComplete="off"
          spellCheck={false}
          required
          placeholder="tally_…"
          value={key}
          aria-invalid={enter.isError}
          aria-describedby={enter.isError ? `${id}-problem` : undefined}
          onChange={(event) => setKey(event.target.value)}
        />
      </div>
      {enter.isError && (
        <div className="banner" data-tone="bad" role="alert" id={`${id}-problem`}>
          <CircleAlert size={16} aria-hidden="true" />
          <span>{enter.error.message}</span>
        </div>
      )}
      <Button kind="primary" type="submit" disabled={enter.isPending}>
        {enter.isPending ? 'Signing in…' : 'Sign in'}
      </Button>
    </form>
  );
}
