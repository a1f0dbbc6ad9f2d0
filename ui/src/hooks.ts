// State that lives in the address, and the clock.
import { useCallback, useEffect, useSyncExternalStore } from "react";
import { useLocation, useSearch } from "wouter";

/** One parameter of the address. Setting it to "" removes it; typing does not fill the history. */
export function useParam(name: string): [string, (value: string) => void] {
  const search = useSearch();
  const [, navigate] = useLocation();
  const set = useCallback(
    (value: string) => {
      // The address itself, not the rendered one: several parameters may change within one event.
      const next = new URLSearchParams(window.location.search);
      if (value) next.set(name, value);
      else next.delete(name);
      const text = next.toString();
      navigate(window.location.pathname + (text ? `?${text}` : ""), { replace: true });
    },
    [name, navigate],
  );
  return [new URLSearchParams(search).get(name) ?? "", set];
}

const watchers = new Set<() => void>();
let ticker: ReturnType<typeof setInterval> | undefined;

/** One timer for the whole page, however many ages it shows. */
function watchClock(watcher: () => void): () => void {
  watchers.add(watcher);
  ticker ??= setInterval(() => {
    for (const one of watchers) one();
  }, 1000);
  return () => {
    watchers.delete(watcher);
    if (watchers.size > 0) return;
    clearInterval(ticker);
    ticker = undefined;
  };
}

/** The present in steps of `seconds`, so that ages on the page stay true without drawing more than needed. */
export function useNow(seconds = 5): number {
  const step = seconds * 1000;
  return useSyncExternalStore(watchClock, () => Math.ceil(Date.now() / step) * step);
}

export function useTitle(...parts: (string | undefined)[]) {
  const title = [...parts.filter(Boolean), "thali"].join(" · ");
  useEffect(() => {
    document.title = title;
  }, [title]);
}
