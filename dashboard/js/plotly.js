// Plotly, loaded once, when the first chart is drawn: it is 4.8 MB.

let loading = null;

/** `base` is where the service's dashboard lies; the page that uses a chart may be elsewhere. */
export function loadPlotly(base) {
  loading ??= new Promise((resolve, reject) => {
    if (window.Plotly) {
      resolve(window.Plotly);
      return;
    }
    const script = document.createElement("script");
    script.src = new URL("../vendor/plotly.min.js", base).href;
    if (new URL(script.src).origin !== location.origin) script.crossOrigin = "use-credentials";
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("Plotly could not be loaded"));
    document.head.append(script);
  });
  return loading;
}
