// Runs before the first paint, so that a page chosen dark does not flash white.
{
  const KEY = "llm_jax.theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // no storage in this browser: follow the system
  }
  if (chosen) root.dataset.theme = chosen;

  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
      root.dataset.theme = dark ? "light" : "dark";
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {
        // it lasts until the page is closed
      }
    });
  });
}
