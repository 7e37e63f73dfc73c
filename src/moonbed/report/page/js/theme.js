/** Light, dark, or as the system says; every page has it. Listeners hear "moonbed:theme" on the document. */

const THEMES = ["auto", "light", "dark"];
const THEME_KEY = "moonbed-theme";

/** Unhide the button and let it go round. */
export function startTheme(button = document.getElementById("theme")) {
  let theme = remembered();
  const apply = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    if (button) {
      button.textContent = `Theme: ${theme}`;
      button.hidden = false;
    }
    document.dispatchEvent(new CustomEvent("moonbed:theme"));
  };
  if (button) {
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      remember(theme);
      apply();
    });
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}

function remembered() {
  try {
    const theme = localStorage.getItem(THEME_KEY);
    return THEMES.includes(theme) ? theme : "auto";
  } catch {
    return "auto";
  }
}

function remember(theme) {
  try {
    localStorage.setItem(THEME_KEY, theme);
  } catch {
    // A page from disk may have no storage: the choice then lasts as long as the page.
  }
}

startTheme();
